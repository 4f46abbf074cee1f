"""`DistillationArguments`: the flags that turn a training script into a distillation script.

Fields that join other scripts' are prefixed `teacher_`, `student_` or `kd_`. Nothing is
loaded here: wrong values are refused before any weights are.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from transformers import TrainingArguments

from .layer_maps import STUDENT_LAYER_RULES, check_layer_map, check_student_layers
from .recipes import DEFAULTS, RECIPES
from .records import LAYER_TERMS, TERMS, Objective

LOGITS_DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon", "mse")
ATTENTION_HEADS = ("head_mean", "per_head")
ATTENTION_VALUES = ("probabilities", "scores")
ATTENTION_DISTANCES = ("mse", "kl")
HIDDEN_DISTANCES = ("mse", "cosine", "normalized_mse")
POSITIONS = ("masked", "all")
TEACHER_DTYPES = ("auto", "float32", "bfloat16", "float16")


def _weight(term: str, text: str) -> Any:
    default = DEFAULTS[f"kd_{term}_weight"]
    return field(
        default=None,
        metadata={"help": f"Weight of {text}, dimensionless, >= 0, default from the recipe or {default}."},
    )


def _choice(choices: tuple[str, ...], name: str, text: str) -> Any:
    return field(
        default=None,
        metadata={
            "help": f"{text}, one of {', '.join(choices)}, default from the recipe or {DEFAULTS[name]}.",
            "choices": list(choices),
        },
    )


def _layer_map(text: str, default: str) -> Any:
    return field(
        default=None,
        metadata={
            "help": f"{text}, a layer map in layers counted from 0, default {default}. `last`: the last layer of "
            "each alone; `uniform`: every student layer to an evenly spaced teacher layer; or pairs such as "
            "`0:3,1:7,2:11`; `embeddings` may be added for hidden states."
        },
    )


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` plus what distillation needs; without a teacher it changes nothing.

    Raises:
        ValueError: a value is out of range, unknown, or contradicts another one.
    """

    teacher_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Teacher as a Hub id or a local folder, any model with the student's kind of head and "
            "tokenizer, default none (plain training)."
        },
    )
    teacher_revision: str = field(
        default="main",
        metadata={"help": "Teacher's revision as a branch, tag or commit of its Hub repository, default main."},
    )
    teacher_dtype: str = field(
        default="auto",
        metadata={
            "help": f"Number format of the teacher's weights, one of {', '.join(TEACHER_DTYPES)}, default auto. "
            "`auto` keeps the checkpoint's own format, but float32 on a CPU.",
            "choices": list(TEACHER_DTYPES),
        },
    )
    teacher_attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention kernel of the teacher, any name that `from_pretrained` takes (sdpa, eager, "
            "flash_attention_2), default the model's own choice."
        },
    )
    teacher_trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Whether code from the teacher's repository may run here, true or false, default false."},
    )
    student_num_hidden_layers: int | None = field(
        default=None,
        metadata={
            "help": "Layers of the student, an integer from 1 to the given model's own count, default none. When "
            "set, the model given to the script becomes the teacher and the student is cut from it with copied "
            "weights."
        },
    )
    student_layers: str = field(
        default="uniform",
        metadata={
            "help": "Teacher layers that become the student's, `uniform` (evenly spaced, first and last included), "
            "`first`, `last`, or layers counted from 0 such as `0,3,5`, default uniform. Used with "
            "--student_num_hidden_layers, which an explicit list may replace."
        },
    )
    kd_recipe: str | None = field(
        default=None,
        metadata={
            "help": f"Published objective to start from, one of {', '.join(RECIPES)}, default none. It sets "
            "defaults; any flag given beside it wins. `hf-kd recipes` describes each.",
            "choices": list(RECIPES),
        },
    )
    kd_temperature: float | None = field(
        default=None,
        metadata={
            "help": "Softening of both distributions in the logits term, dimensionless, > 0, default from the "
            f"recipe or {DEFAULTS['kd_temperature']}. The term is multiplied by its square."
        },
    )
    kd_task_weight: float | None = _weight("task", "the task's own loss (the labels)")
    kd_logits_weight: float | None = _weight("logits", "the divergence between the logits")
    kd_attention_weight: float | None = _weight("attention", "the distance between attention maps")
    kd_hidden_weight: float | None = _weight("hidden", "the distance between hidden states")
    kd_relation_weight: float | None = _weight("relation", "the query, key and value relations (MiniLM v2)")
    kd_logits_divergence: str | None = _choice(
        LOGITS_DIVERGENCES, "kd_logits_divergence", "Divergence between student and teacher logits"
    )
    kd_attention_heads: str | None = _choice(
        ATTENTION_HEADS, "kd_attention_heads", "Attention maps compared, averaged over heads or head by head"
    )
    kd_attention_values: str | None = _choice(
        ATTENTION_VALUES, "kd_attention_values", "Attention values compared, after or before the softmax"
    )
    kd_attention_distance: str | None = _choice(
        ATTENTION_DISTANCES, "kd_attention_distance", "Distance between attention maps"
    )
    kd_hidden_distance: str | None = _choice(HIDDEN_DISTANCES, "kd_hidden_distance", "Distance between hidden states")
    kd_positions: str | None = _choice(
        POSITIONS, "kd_positions", "Positions whose logits are compared, those with a label or every real token"
    )
    kd_layer_map: str | None = _layer_map("Layers compared by every layer term", "from the recipe or last")
    kd_attention_layer_map: str | None = _layer_map("Layers whose attention is compared", "--kd_layer_map")
    kd_hidden_layer_map: str | None = _layer_map("Layers whose hidden states are compared", "--kd_layer_map")
    kd_relation_layer_map: str | None = _layer_map("Layers whose relations are compared", "--kd_layer_map")
    kd_relation_heads: int | None = field(
        default=None,
        metadata={
            "help": "Relation heads of the relation term, an integer >= 1 that divides both models' query widths, "
            "default the student's attention heads."
        },
    )
    kd_output_chunk_megabytes: int | None = field(
        default=None,
        metadata={
            "help": "Memory for the logits of student and teacher in MB (2^20 bytes), an integer >= 0, default 256. "
            "The output layers of language models are computed in chunks of positions that fit it; 0 computes all "
            "at once, and the student's outputs then hold its logits."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: not the Hub's token, since `push_to_hub` uploads training_args.bin."""
        return self.__dict__ | {"hub_token": None}

    def __copy__(self) -> Self:
        """A copy in memory, which keeps the token."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy in memory, which keeps the token."""
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def check(self) -> None:
        """Refuse values that are out of range, unknown, or contradict or void one another.

        Raises:
            ValueError: names the setting, what it needs and the cure.
        """
        self._check_choices()
        self._check_numbers()
        self._check_layers()
        self._check_combinations()
        self._check_idle_settings()

    @property
    def distills(self) -> bool:
        """Whether these arguments name a teacher, either as such or as the model to cut a student from."""
        return self.teacher_model_name_or_path is not None or self.cuts_student

    @property
    def cuts_student(self) -> bool:
        """Whether the student is to be cut from the model given to the script."""
        return self.student_num_hidden_layers is not None or self.student_layers not in STUDENT_LAYER_RULES

    @property
    def given_settings(self) -> tuple[str, ...]:
        """Names of the objective's settings that were given a value."""
        return tuple(
            item.name for item in fields(self) if item.name.startswith("kd_") and getattr(self, item.name) is not None
        )

    def objective(self) -> Objective:
        """The objective with every default filled in: a given flag, else the recipe's value, else `DEFAULTS`."""
        shared_map = self._setting("kd_layer_map")
        recipe_maps: Mapping[str, Any] = RECIPES[self.kd_recipe].settings if self.kd_recipe else {}
        return Objective(
            recipe=self.kd_recipe,
            weights={term: float(self._setting(f"kd_{term}_weight")) for term in TERMS},
            temperature=float(self._setting("kd_temperature")),
            logits_divergence=self._setting("kd_logits_divergence"),
            attention_heads=self._setting("kd_attention_heads"),
            attention_values=self._setting("kd_attention_values"),
            attention_distance=self._setting("kd_attention_distance"),
            hidden_distance=self._setting("kd_hidden_distance"),
            positions=self._setting("kd_positions"),
            relation_heads=self._setting("kd_relation_heads"),
            layer_maps={
                # A shared map that the user types is more explicit than a recipe's map for one term.
                term: getattr(self, f"kd_{term}_layer_map")
                or self.kd_layer_map
                or recipe_maps.get(f"kd_{term}_layer_map")
                or shared_map
                for term in LAYER_TERMS
            },
        )

    def _setting(self, name: str) -> Any:
        given = getattr(self, name)
        if given is not None:
            return given
        recipe = RECIPES[self.kd_recipe].settings if self.kd_recipe else {}
        return recipe.get(name, DEFAULTS.get(name))

    def _check_choices(self) -> None:
        for name, choices in (
            ("kd_recipe", tuple(RECIPES)),
            ("kd_logits_divergence", LOGITS_DIVERGENCES),
            ("kd_attention_heads", ATTENTION_HEADS),
            ("kd_attention_values", ATTENTION_VALUES),
            ("kd_attention_distance", ATTENTION_DISTANCES),
            ("kd_hidden_distance", HIDDEN_DISTANCES),
            ("kd_positions", POSITIONS),
            ("teacher_dtype", TEACHER_DTYPES),
        ):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise ValueError(f"`{name}` is {value!r}; it must be one of {', '.join(choices)}. Pick one of them.")

    def _check_numbers(self) -> None:
        if self.kd_temperature is not None and not 0 < self.kd_temperature < float("inf"):
            raise ValueError(
                f"`kd_temperature` is {self.kd_temperature}; a temperature divides the logits and must be above 0 and "
                "finite. Use 1 for no softening, 2 as most recipes do."
            )
        for term in TERMS:
            weight = getattr(self, f"kd_{term}_weight")
            if weight is not None and not 0 <= weight < float("inf"):
                raise ValueError(
                    f"`kd_{term}_weight` is {weight}; a weight must be 0 or more and finite. Use 0 to leave the term "
                    "out."
                )
        if self.kd_relation_heads is not None and self.kd_relation_heads < 1:
            raise ValueError(f"`kd_relation_heads` is {self.kd_relation_heads}; it must be 1 or more.")
        if self.kd_output_chunk_megabytes is not None and self.kd_output_chunk_megabytes < 0:
            raise ValueError(
                f"`kd_output_chunk_megabytes` is {self.kd_output_chunk_megabytes}; it must be 0 or more. Use 0 to "
                "compute all logits at once."
            )

    def _check_layers(self) -> None:
        check_student_layers(self.student_layers, self.student_num_hidden_layers)
        if self.student_layers in STUDENT_LAYER_RULES[1:] and self.student_num_hidden_layers is None:
            raise ValueError(
                f"`student_layers` is {self.student_layers}, but `student_num_hidden_layers` does not say how many. "
                "Set it."
            )
        for term in ("", *(f"{term}_" for term in LAYER_TERMS)):
            name = f"kd_{term}layer_map"
            if getattr(self, name) is not None:
                check_layer_map(name, getattr(self, name), embeddings_allowed=term in ("", "hidden_"))

    def _check_idle_settings(self) -> None:
        """A setting of a term with weight 0, or of a teacher that is not loaded, would do nothing."""
        objective = self.objective()
        owners = {
            "kd_temperature": ("logits",),
            "kd_logits_divergence": ("logits",),
            "kd_positions": ("logits",),
            "kd_attention_heads": ("attention",),
            "kd_attention_values": ("attention",),
            "kd_attention_distance": ("attention",),
            "kd_attention_layer_map": ("attention",),
            "kd_hidden_distance": ("hidden",),
            "kd_hidden_layer_map": ("hidden",),
            "kd_relation_heads": ("relation",),
            "kd_relation_layer_map": ("relation",),
            "kd_layer_map": LAYER_TERMS,
        }
        for name in self.given_settings:
            terms = owners.get(name, ())
            if terms and not any(objective.uses(term) for term in terms):
                weights = " and ".join(f"`kd_{term}_weight`" for term in terms)
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}, but {weights} {'is' if len(terms) == 1 else 'are'} 0, so it "
                    "would do nothing. Give the term a weight, or drop the setting."
                )
        if self.teacher_model_name_or_path is None:
            defaults = {item.name: item.default for item in fields(self)}
            for name in (
                "teacher_revision",
                "teacher_dtype",
                "teacher_attn_implementation",
                "teacher_trust_remote_code",
            ):
                if getattr(self, name) != defaults[name]:
                    raise ValueError(
                        f"`{name}` is {getattr(self, name)}, but no teacher is loaded by name, so it would do nothing. "
                        "Set `teacher_model_name_or_path`, or drop it."
                    )

    def _check_combinations(self) -> None:
        if self.teacher_model_name_or_path is not None and self.cuts_student:
            raise ValueError(
                f"`teacher_model_name_or_path` ({self.teacher_model_name_or_path}) and `student_num_hidden_layers` or "
                "`student_layers` are both set. Cutting a student makes the model given to the script the teacher: "
                "drop one of the two."
            )
