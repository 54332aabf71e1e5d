"""`python -m bench.names PATH`: how well people are found in the first chapters of the 120-chapter Honglou meng.

PATH is the novel in UTF-8, simplified characters, each chapter headed by a line such as `第一回 …`. Chapters are compared with
lists in `data/`, made by hand: that of chapters 1 to 5 before the rules were tuned on it, that of chapter 6 after that.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from pathlib import Path

from services.text.chapters import split
from services.text.names import full_names
from services.text.people import Person, people

DATA = Path(__file__).with_name("data")
LISTS = ((1, 5, DATA / "names_chapters_1_5.json"), (6, 6, DATA / "names_chapter_6.json"))
"""First chapter, last chapter, and who is named in them. Rules were tuned on the first list only."""


def main(path: Path) -> None:
    """Print precision and recall for each list."""
    novel = path.read_text(encoding="utf-8")
    chapters = {one.number: one for one in split(novel) if one.kind == "chapter"}
    for first, last, path in LISTS:
        text = novel[chapters[first].start : chapters[last].end]
        listed = json.loads(path.read_text(encoding="utf-8"))["people"]
        began = time.perf_counter()
        found = people(text)
        seconds = time.perf_counter() - began
        print(f"\n== chapters {first} to {last}: {len(text)} characters, {len(found)} people found in {seconds:.2f} s")
        everybody = [frozenset(one["forms"]) for one in listed]
        story = [frozenset(one["forms"]) for one in listed if one["kind"] == "story"]
        allusions = frozenset(form for one in listed if one["kind"] == "allusion" for form in one["forms"])
        _report("all people of the list", found, everybody, frozenset())
        if allusions:
            _report("people of the story", found, story, allusions)
        _baseline(text, everybody)
        _misses(found, everybody)


def _report(title: str, found: list[Person], listed: list[frozenset[str]], left_out: Collection[str]) -> None:
    """Compare.

    Args:
        left_out: forms that are neither right nor wrong.
    """
    wanted = frozenset().union(*listed)
    counted = [person for person in found if not all(form.text in left_out for form in person.forms)]
    reported = {form.text: form.count for person in counted for form in person.forms if form.text not in left_out}
    right = [person for person in counted if any(form.text in wanted for form in person.forms)]
    seen = [one for one in listed if one & reported.keys()]
    pure = [person for person in right if any({form.text for form in person.forms} <= one for one in listed)]
    whole = [one for one in seen if any(one & reported.keys() <= {f.text for f in p.forms} for p in found)]
    hits = reported.keys() & wanted
    print(f"\n{title}")
    print(f"  persons: precision {_share(len(right), len(counted))}, recall {_share(len(seen), len(listed))}")
    print(f"  forms: precision {_share(len(hits), len(reported))}, recall {_share(len(hits), len(wanted))}")
    mentions = sum(reported.values())
    print(f"  mentions that are names of the list: {_share(sum(reported[form] for form in hits), mentions)}")
    print(f"  entries whose forms all belong to one person: {_share(len(pure), len(right))}")
    print(f"  persons found under one entry: {_share(len(whole), len(seen))}")


def _baseline(text: str, listed: list[frozenset[str]]) -> None:
    wanted = frozenset().union(*listed)
    names = set(full_names(text))
    print("\nonly names with a surname (services/text/names.py), all people of the list")
    print(
        f"  forms: precision {_share(len(names & wanted), len(names))}, recall {_share(len(names & wanted), len(wanted))}"
    )
    print(f"  persons: recall {_share(sum(1 for one in listed if one & names), len(listed))}")


def _misses(found: list[Person], listed: list[frozenset[str]]) -> None:
    wanted = frozenset().union(*listed)
    reported = {form.text for person in found for form in person.forms}
    print("\nfound, not in the list:", "、".join(sorted(reported - wanted)) or "none")
    print("in the list, not found:", "、".join(sorted(wanted - reported)) or "none")
    mixed = [p for p in found if (f := {x.text for x in p.forms} & wanted) and not any(f <= one for one in listed)]
    print("different people in one entry:", "; ".join("=".join(x.text for x in p.forms) for p in mixed) or "none")
    split_up = [one for one in listed if sum(1 for p in found if {x.text for x in p.forms} & one) > 1]
    print("one person in several entries:", "; ".join("/".join(sorted(one & reported)) for one in split_up) or "none")


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} = {part / whole:.3f}" if whole else "0/0"


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
