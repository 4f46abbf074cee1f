"""Which models ignore the item count: what the source says is what the models do."""

import models
import pytest
import torch
import transformers as hf

from hf_kd.item_counts import ignores_item_count

CLASSES = [
    (family, head)
    for family in (*models.MASKED, *models.CAUSAL)
    for head in ("masked_lm", "causal_lm", "sequence_classification", "token_classification")
    if head != ("masked_lm" if family in models.CAUSAL else "causal_lm")
]


@pytest.mark.parametrize(("family", "head"), CLASSES)
def test_source_and_behaviour_agree(family, head):
    model = models.model(family, head, num_labels=3).eval()
    batch = models.collate(models.rows(4, head=head))
    with torch.no_grad():
        plain = float(model(**batch).loss)
        counted = float(model(**batch, num_items_in_batch=torch.tensor(1000)).loss)
    assert ignores_item_count(model) == (plain == pytest.approx(counted, rel=1e-6))


def test_both_kinds_occur():
    kinds = {ignores_item_count(models.model(family, head)) for family, head in CLASSES}
    assert kinds == {True, False}


def test_models_that_say_so_themselves_and_other_heads_are_left_to_the_trainer():
    model = models.model("bert")
    assert ignores_item_count(model)
    model.accepts_loss_kwargs = False
    assert not ignores_item_count(model)
    assert not ignores_item_count(hf.BertForMultipleChoice(models.config("bert")))
