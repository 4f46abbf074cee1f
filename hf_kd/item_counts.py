"""Which models ignore the item count that the Trainer gives them: a flaw of transformers 5."""

from __future__ import annotations

import ast
import inspect
import textwrap

from torch import nn

from .architecture import head_of, unwrap_peft

UPSTREAM_ISSUE = "https://github.com/huggingface/transformers/issues/47688"


def ignores_item_count(model: nn.Module) -> bool:
    """Whether the model takes `num_items_in_batch` but returns the mean over its own batch all the same.

    A head that honours it computes its loss with `self.loss_function(..., **kwargs)`; that is read
    from its source, since trying it out would take a forward pass of the whole model.
    """
    model = unwrap_peft(model)
    if head_of(model) is None or hasattr(model, "accepts_loss_kwargs"):
        return False
    try:
        forward = inspect.unwrap(type(model).forward)
        source = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError):
        return False
    takes_any = any(p.kind == p.VAR_KEYWORD for p in inspect.signature(forward).parameters.values())
    honours = any(
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "loss_function"
        and any(keyword.arg is None for keyword in call.keywords)
        for call in ast.walk(source)
    )
    return takes_any and not honours
