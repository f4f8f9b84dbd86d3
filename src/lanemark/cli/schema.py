"""`lanemark schema`: the record's JSON Schema, of all lanes or of one, or the page that documents every field."""

from __future__ import annotations

from lanemark.cli.parsing import parser, print_json
from lanemark.records.case import LANES


def main(args: list[str]) -> int:
    """Print the schema, JSON Schema 2020-12, or the documentation page. Exit 0."""
    verb = parser("schema", "Print the record's JSON Schema (draft 2020-12), for any validator.")
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--lane", choices=LANES, help="only records of this lane (default: of every lane)")
    form.add_argument("--markdown", action="store_true", help="print the page that documents every field instead")
    form.add_argument("--json", action="store_true", help="print JSON: what it does anyway")
    asked = verb.parse_args(args)
    if asked.markdown:
        from lanemark.records.schema_page import page

        print(page() + _rules(), end="")
        return 0
    from lanemark.records.schema import json_schema

    print_json(json_schema(asked.lane))
    return 0


def _rules() -> str:
    """What a schema cannot say: the rules of every lane with their reasons, Markdown."""
    from lanemark.lanes.rules import rules_of
    from lanemark.lanes.shared_rules import SHARED_RULES

    tables = [("every lane", SHARED_RULES)]
    tables += [
        (f"the {lane} lane", tuple(rule for rule in rules_of(lane) if rule not in SHARED_RULES)) for lane in LANES
    ]
    lines = [
        "",
        "## Rules",
        "",
        "A record that breaks one is refused with `lane-rule-broken`, and the rule is named.",
        "",
    ]
    for whose, rules in tables:
        lines += [f"### Of {whose}", "", "| rule | why |", "|---|---|"]
        lines += [f"| `{rule.name}` | {rule.why} |" for rule in rules] + [""]
    return "\n".join(lines).rstrip() + "\n"
