"""Taps on one model: hidden states, attention maps and relations of chosen layers, and a
head that sees the selected positions alone.

A tap reads; it never changes what the model computes. Every layer keeps its own attention
kernel: the weights of a tapped layer are computed beside it, from the query and key that
the kernel was given.

While taps are installed, a tapped attention module holds a copy of its configuration that
names the tap's attention function. `remove` puts the original back.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .architecture import BYPASSING_ATTENTION, attention_of, transformer_layers, unwrap_peft
from .attention_masks import allowed_pairs
from .losses.grouped import group_heads, sum_over_groups
from .losses.reduce import full_precision
from .records import EMBEDDINGS, Signal

_names = itertools.count()

# Options of an attention function that change its scores in ways that are not reproduced here.
_CHANGE_SCORES = ("s_aux", "sinks", "position_bias")


class Complete(Exception):
    """All that was wanted is captured: what the forward pass would still compute is not needed."""


class Capture:
    """Taps on one model, installed by `install` and taken out by `remove`.

    Args:
        model: any supported model, wrapped by peft or not, not by DDP.
        hidden: layers whose hidden states are wanted; `EMBEDDINGS` for the embedding output.
        attention: layers whose attention is wanted.
        relation: layers whose query, key and value states are wanted.
        head_mean: whether attention is averaged over heads.
        scores: whether attention is taken before the softmax, 0 where attention is not allowed.

    Raises:
        ValueError: the model's layers or attention cannot be reached.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        hidden: Collection[int] = (),
        attention: Collection[int] = (),
        relation: Collection[int] = (),
        head_mean: bool = True,
        scores: bool = False,
    ) -> None:
        self.model = model
        self.wanted_hidden = frozenset(hidden)
        self.wanted_attention = frozenset(attention)
        self.wanted_relation = frozenset(relation)
        self.head_mean = head_mean
        self.scores = scores
        self._undo: list[Callable[[], object]] = []
        self._hidden: dict[int, Tensor] = {}
        self._attention: dict[int, Tensor] = {}
        self._relation: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._recording = False
        self._probing = False
        self._selected: Tensor | None = None
        self._stops = False
        self._layers = transformer_layers(model) if self._taps_layers else nn.ModuleList()
        self._attentions = {
            layer: attention_of(model, self._layers[layer])
            for layer in sorted(self.wanted_attention | self.wanted_relation)
        }
        if scores and any(type(module).__name__ in BYPASSING_ATTENTION for module in self._attentions.values()):
            raise ValueError(
                f"Attention scores of `{type(unwrap_peft(model)).__name__}` cannot be captured, only its "
                "probabilities. Use `kd_attention_values probabilities`."
            )

    @property
    def _taps_layers(self) -> bool:
        return bool(self.wanted_hidden or self.wanted_attention or self.wanted_relation)

    @property
    def is_installed(self) -> bool:
        """Whether the taps are in the model."""
        return bool(self._undo)

    @property
    def is_recording(self) -> bool:
        """Whether the forward pass at hand is recorded."""
        return self._recording

    def install(self) -> None:
        """Put the taps into the model. Does nothing if they are there."""
        if self.is_installed:
            return
        try:
            self._tap_base()
            for layer in self.wanted_hidden:
                self._tap_hidden(layer)
            for layer, module in self._attentions.items():
                if type(module).__name__ in BYPASSING_ATTENTION:
                    self._tap_bypassing(layer, module)
                else:
                    self._tap_interface(layer, module)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take every tap out of the model and forget what was captured."""
        while self._undo:
            self._undo.pop()()
        self.take()

    def start(self, selected: Tensor | None = None, *, stops: bool = False) -> None:
        """Record the next forward pass.

        Args:
            selected: positions that the head is to see; its logits then have shape (1, S, V).
                None for all. Shape (B, N).
            stops: whether to end the pass, by raising `Complete`, once all is captured.
        """
        self._clear()
        self._recording = True
        self._selected = selected
        self._stops = stops

    def take(self) -> Signal:
        """Stop recording and hand over what was captured, without the head's outputs."""
        signal = Signal(hidden=self._hidden, attention=self._attention, relation=self._relation)
        self._recording = False
        self._selected = None
        self._clear()
        return signal

    def probe(self, *, narrows_head: bool) -> Signal:
        """Try the taps on four tokens, so that a model that they do not fit is refused before it trains.

        Args:
            narrows_head: whether the head will see selected positions alone.

        Returns:
            What was captured, for its shapes.

        Raises:
            ValueError: the model cannot be captured.
        """
        device = next(self.model.parameters()).device
        selected = torch.tensor([[False, True, True, False]], device=device) if narrows_head else None
        was_training = self.model.training
        self._probing = True
        try:
            self.install()
            self.model.eval()
            self.start(selected)
            with torch.no_grad():
                outputs = self.model(input_ids=torch.arange(4, device=device)[None], return_dict=True)
            signal = self.take()
            self._check_probe(signal, outputs, narrows_head)
            return signal
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(
                f"`{type(unwrap_peft(self.model)).__name__}` cannot be captured: on four tokens it failed with "
                f"{type(error).__name__}: {error}. Use another model, or fewer terms."
            ) from error
        finally:
            self._probing = False
            self.remove()
            self.model.train(was_training)

    def _check_probe(self, signal: Signal, outputs: Any, narrows_head: bool) -> None:
        shapes = {
            "hidden": (self.wanted_hidden, {layer: state.shape[:2] for layer, state in signal.hidden.items()}),
            "attention": (self.wanted_attention, {layer: w.shape[-2:] for layer, w in signal.attention.items()}),
            "relation": (self.wanted_relation, {layer: q.shape[:2] for layer, (q, _, _) in signal.relation.items()}),
        }
        expected = {"hidden": (1, 4), "attention": (4, 4), "relation": (1, 4)}
        wrong = [
            term
            for term, (wanted, found) in shapes.items()
            if set(found) != wanted or any(tuple(shape) != expected[term] for shape in found.values())
        ]
        if narrows_head and tuple(outputs["logits"].shape[:2]) != (1, 2):
            wrong.append("logits of selected positions")
        if wrong:
            raise ValueError(
                f"`{type(unwrap_peft(self.model)).__name__}` does not show its {' and '.join(wrong)} where they are "
                "looked for, so it cannot be distilled with these terms. Use fewer terms, or a model such as BERT, "
                "XLM-R, DistilBERT, ELECTRA, ModernBERT, DeBERTa-v2, Llama or Qwen."
            )

    def _stop_if_complete(self) -> None:
        wanted = self.wanted_hidden, self.wanted_attention, self.wanted_relation
        found = self._hidden, self._attention, self._relation
        if self._recording and self._stops and all(len(one) == len(other) for one, other in zip(wanted, found)):
            raise Complete

    def _clear(self) -> None:
        self._hidden, self._attention, self._relation = {}, {}, {}

    def _tap_base(self) -> None:
        """Capture the last hidden state, which follows a final norm, and narrow it to the selected positions."""
        last = len(self._layers) - 1

        def narrow(module: nn.Module, args: Any, output: Any) -> Any:
            if not self._recording:
                return output
            state = output[0]
            if last in self.wanted_hidden:
                self._hidden[last] = state
            if self._selected is None:
                return output
            state = state[self._selected].unsqueeze(0)
            if isinstance(output, tuple):
                return (state, *output[1:])
            output["last_hidden_state"] = state
            return output

        base = unwrap_peft(self.model).base_model
        self._undo.append(base.register_forward_hook(narrow).remove)

    def _tap_hidden(self, layer: int) -> None:
        """Capture a hidden state where the next layer reads it; the last one is captured by `_tap_base`."""
        if layer == len(self._layers) - 1:
            return

        def keep_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._recording:
                self._hidden[layer] = args[0] if args else kwargs["hidden_states"]
                self._stop_if_complete()

        following = 0 if layer == EMBEDDINGS else layer + 1
        self._undo.append(self._layers[following].register_forward_pre_hook(keep_input, with_kwargs=True).remove)

    def _tap_interface(self, layer: int, module: nn.Module) -> None:
        """Route one module's attention through a function that also computes what is wanted of it."""
        kernel = _kernel(module)
        wants_attention, wants_relation = layer in self.wanted_attention, layer in self.wanted_relation

        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
        ) -> tuple[Tensor, Tensor | None]:
            weights = None
            # Computed whether recording or not: activation checkpointing repeats the forward pass
            # after `take`, and must save the same tensors. An evaluation (student in eval mode,
            # nothing recorded) needs none.
            if wants_attention and (self._recording or module.training):
                weights = self._attention_map(module, query, key, attention_mask, kwargs)
                if self._recording:
                    self._attention[layer] = weights
            if wants_relation and self._recording:
                self._relation[layer] = (_join_heads(query), _join_heads(key), _join_heads(value))
            self._stop_if_complete()
            result = kernel(module, query, key, value, attention_mask, **kwargs)
            if weights is not None and self._probing:
                _check_reproduced(module, weights, value, result[0])
                self._attention[layer] = self._reduce_heads(weights)
            return result

        name = f"hf_kd_tap_{next(_names)}"
        ALL_ATTENTION_FUNCTIONS[name] = attend
        original = module.config
        tapped = copy.deepcopy(original)
        tapped._attn_implementation = name
        module.config = tapped

        def untap() -> None:
            if module.config is tapped:  # else another tap lies on top of this one and still calls it
                module.config = original
                del ALL_ATTENTION_FUNCTIONS[name]

        self._undo.append(untap)

    def _attention_map(
        self, module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """Attention from what the kernel was given: the mean over heads, or head by head in a probe too.

        Shape (B, N, N) or (B, A, N, N).
        """
        unknown = [name for name in _CHANGE_SCORES if options.get(name) is not None]
        if unknown:
            raise ValueError(
                f"`{type(module).__name__}` changes its attention by {', '.join(unknown)}, which cannot be captured. "
                "Use the task, logits and hidden terms."
            )
        heads = query.shape[1]
        if key.shape[1] != heads:
            key = key.repeat_interleave(heads // key.shape[1], dim=1)
        scaling, softcap = options.get("scaling"), options.get("softcap")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        shape = query.new_zeros(()).expand(query.shape[2], key.shape[2])
        allowed = allowed_pairs(module, shape, attention_mask, options.get("sliding_window"))
        takes_scores = self.scores and not self._probing

        def of_heads(group: slice, query: Tensor, key: Tensor) -> Tensor:
            scores = full_precision(query[:, group] @ key[:, group].transpose(-1, -2)) * scaling
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if allowed is not None:
                own = allowed[:, group] if allowed.dim() == 4 and allowed.shape[1] > 1 else allowed
                scores = scores.masked_fill(~own, 0.0 if takes_scores else torch.finfo(scores.dtype).min)
            return scores if takes_scores else torch.softmax(scores, dim=-1)

        if not self.head_mean or self._probing:
            return of_heads(slice(None), query, key)
        groups = group_heads(heads, query.shape[0] * query.shape[2] * key.shape[2] * max(4, query.itemsize))
        return sum_over_groups(lambda *args: of_heads(*args).sum(1), groups, query, key) / heads

    def _reduce_heads(self, weights: Tensor) -> Tensor:
        return weights.mean(1) if self.head_mean else weights

    def _tap_bypassing(self, layer: int, module: nn.Module) -> None:
        """Read an attention module that does not use the attention interface."""
        names = BYPASSING_ATTENTION[type(module).__name__]
        if layer in self.wanted_attention:

            def keep_probabilities(dropout: nn.Module, args: tuple[Tensor, ...]) -> None:
                if self._recording:
                    self._attention[layer] = self._reduce_heads(args[0])  # before dropout
                    self._stop_if_complete()

            hook = module.get_submodule(names["probabilities"]).register_forward_pre_hook(keep_probabilities)
            self._undo.append(hook.remove)
        if layer in self.wanted_relation:
            states: dict[str, Tensor] = {}

            def keep_states(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
                def keep(linear: nn.Module, args: Any, output: Tensor) -> None:
                    if self._recording:
                        states.setdefault(name, output)  # later calls project relative positions

                return keep

            def hand_over(attention: nn.Module, args: Any, output: Any) -> None:
                if self._recording:
                    self._relation[layer] = tuple(states[name] for name in names["relation"])
                states.clear()
                self._stop_if_complete()

            for name in names["relation"]:
                self._undo.append(module.get_submodule(name).register_forward_hook(keep_states(name)).remove)
            self._undo.append(module.register_forward_hook(hand_over).remove)


def _kernel(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function that the module would call by itself."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    implementation = module.config._attn_implementation
    if implementation in (None, "eager") and eager is None:
        raise ValueError(
            f"`{type(module).__name__}` has no eager attention function to tap. Load the model with "
            "`attn_implementation='sdpa'`."
        )
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)


def _check_reproduced(module: nn.Module, weights: Tensor, value: Tensor, expected: Tensor) -> None:
    """Refuse attention that does more than scale, mask and normalise: the weights must explain its output."""
    if value.shape[1] != weights.shape[1]:
        value = value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)
    rebuilt = (weights.to(value.dtype) @ value).transpose(1, 2)
    tolerance = 1e-3 if value.dtype in (torch.float32, torch.float64) else 3e-2
    if rebuilt.shape != expected.shape or not torch.allclose(rebuilt, expected, rtol=tolerance, atol=tolerance):
        raise ValueError(
            f"The attention of `{type(module).__name__}` is not what its query, key and mask say, so it cannot be "
            "captured. Use the task, logits and hidden terms."
        )


def _join_heads(states: Tensor) -> Tensor:
    """(B, A, N, D / A) to (B, N, D)."""
    return states.transpose(1, 2).flatten(2)
