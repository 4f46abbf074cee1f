"""The reference cards in the repository are what their facts give, and name what made them."""

import re
from pathlib import Path

import pytest

from hf_kd import card, facts_file

FOLDER = Path(__file__).parents[1] / "model_cards"
CARDS = sorted(path.parent.name for path in FOLDER.glob(f"*/{facts_file.FILE_NAME}"))


def test_there_are_cards():
    assert "demo-student" in CARDS


@pytest.mark.parametrize("name", CARDS)
def test_a_cards_text_is_made_of_its_facts(name):
    facts = facts_file.load(FOLDER / name)
    text = (FOLDER / name / card.FILE_NAME).read_text(encoding="utf-8")
    assert card.compose(facts) == text, f"run `hf-kd card model_cards/{name}`"
    assert facts_file.dumps(facts) == (FOLDER / name / facts_file.FILE_NAME).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CARDS)
def test_a_card_names_the_command_that_made_it(name):
    command = " ".join(facts_file.load(FOLDER / name).command)
    (row,) = re.findall(rf"^\| \[{name}\]\({name}/README.md\) \| (.*) \|$", (FOLDER / "README.md").read_text(), re.M)
    assert command and f"`{command}`" in row


@pytest.mark.parametrize("name", CARDS)
def test_the_pictures_of_a_card_are_there(name):
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (FOLDER / name / card.FILE_NAME).read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert (FOLDER / name / picture).read_bytes().startswith(b"\x89PNG")


def test_the_check_can_fail():
    facts = facts_file.load(FOLDER / CARDS[0])
    text = card.compose(facts)
    assert card.compose(facts, text.replace("## Limits", "## Limitless")) == text != text.replace("## Limits", "x")
