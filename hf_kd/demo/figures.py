"""The figures of one demo run: a frozen record, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from hf_kd import __version__

from .measure import Score, mean_score

MODEL_NAMES = {
    "teacher": "teacher",
    "from_scratch": "student from scratch",
    "copied": "copied layers, no teacher",
    "distilled": "distilled student",
}
"""What the models of a demo are called, by key, in the order in which they are shown."""


@dataclass(frozen=True)
class ModelSize:
    """What a model weighs.

    Attributes:
        layers: encoder layers.
        parameters: parameters, tied ones once.
        megabytes: their size in memory, in 10⁶ bytes.
        lines_per_second: held-out lines it reads, median of several turns.
    """

    layers: int
    parameters: int
    megabytes: float
    lines_per_second: float


@dataclass(frozen=True)
class Figures:
    """Everything a run measured.

    Attributes:
        languages: names of languages by code or file stem.
        masked_tokens: masked tokens measured on, by language.
        scores: scores by model (a key of `MODEL_NAMES`) and language.
        gain_intervals: see `measure.gain_interval`; distilled over each student without a teacher.
        sizes: teacher and distilled student.
        settings: settings that decide the figures.
        seconds: how long the run took.
    """

    languages: Mapping[str, str]
    masked_tokens: Mapping[str, int]
    scores: Mapping[str, Mapping[str, Score]]
    gain_intervals: Mapping[str, tuple[float, float]]
    sizes: Mapping[str, ModelSize]
    settings: Mapping[str, object]
    seconds: float

    @property
    def means(self) -> dict[str, Score]:
        """Each model's mean over languages."""
        return {model: mean_score(of_model) for model, of_model in self.scores.items()}

    @property
    def gains(self) -> dict[str, float]:
        """Accuracy of the distilled student minus that of the one from scratch, by language."""
        distilled, scratch = self.scores["distilled"], self.scores["from_scratch"]
        return {language: distilled[language].accuracy - scratch[language].accuracy for language in self.languages}

    @property
    def mean_gain(self) -> float:
        """The mean of `gains`."""
        return self.means["distilled"].accuracy - self.means["from_scratch"].accuracy

    @property
    def teachers_share(self) -> Score:
        """Accuracy and loss of the distilled student minus those of copied layers trained without a teacher."""
        distilled, copied = self.means["distilled"], self.means["copied"]
        return Score(distilled.accuracy - copied.accuracy, distilled.loss - copied.loss)

    @property
    def distilled_wins(self) -> bool:
        """Whether the distilled student's mean accuracy is higher than that of the one from scratch."""
        return self.mean_gain > 0

    def to_json(self) -> dict[str, Any]:
        """Plain values: accuracies as shares of 1, losses in nats."""
        return {
            "languages": {
                language: {
                    "name": name,
                    "masked_tokens": self.masked_tokens[language],
                    "scores": {model: asdict(self.scores[model][language]) for model in MODEL_NAMES},
                    "gain": self.gains[language],
                }
                for language, name in self.languages.items()
            },
            "mean": {
                "scores": {model: asdict(self.means[model]) for model in MODEL_NAMES},
                "gain": self.mean_gain,
                "gain_interval_95": list(self.gain_intervals["from_scratch"]),
                "gain_over_copied": self.teachers_share.accuracy,
                "gain_over_copied_interval_95": list(self.gain_intervals["copied"]),
                "distilled_wins": self.distilled_wins,
            },
            "sizes": {model: asdict(size) for model, size in self.sizes.items()},
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "versions": {"hf_kd": __version__, **{name: version(name) for name in ("torch", "transformers", "babel")}},
        }
