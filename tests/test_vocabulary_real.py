"""A real multilingual tokenizer trimmed to one language, on real text."""

import pytest
from transformers import AutoConfig, AutoTokenizer

from hf_kd.vocabulary import count_tokens, plan_trim, same_pipeline, trim_tokenizer

pytestmark = pytest.mark.real


def test_6000_tokens_are_enough_for_hausa(shared, tmp_path):
    folder = shared / "models" / "afro-mini"
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    path = shared / "data" / "text" / "hau.txt"
    plan = plan_trim(tokenizer, count_tokens(tokenizer, [path]), vocab_size=6000, model_config=config)
    assert plan.size == 6000 and plan.source_size == plan.model_rows == 24_000
    assert plan.coverage > 0.995
    trim_tokenizer(tokenizer, plan).save_pretrained(tmp_path)
    small = AutoTokenizer.from_pretrained(tmp_path)
    assert small.get_vocab() == {tokenizer.convert_ids_to_tokens(old): new for new, old in enumerate(plan.kept_ids)}
    assert same_pipeline(small, tokenizer) is None
    ranks = {old: new for new, old in enumerate(plan.kept_ids)}
    lines = path.read_text(encoding="utf-8").splitlines()[:2000]
    rows = tokenizer(lines)["input_ids"]
    alike = [[ranks[old] for old in row] if all(old in ranks for old in row) else None for row in rows]
    checked = 0
    for row, expected in zip(small(lines)["input_ids"], alike, strict=True):
        if expected is not None:
            checked += 1
            assert row == expected
    assert checked > 0.9 * len(lines)
