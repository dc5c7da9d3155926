#!/usr/bin/env python3
"""Writes what the chart holds of other files: `helm/sync.py`.

Helm reads nothing outside a chart's directory, so dashboards and rules are copied from deploy/; and
the table of values in the chart's README is made of the comments in values.yaml. A test says when
one of them is stale.
"""

import json
import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "helm/facet"
BEGIN, END = "<!-- values: made by helm/sync.py -->\n", "<!-- end of values -->\n"


def copies():
    """Path in the chart → its text, copied from deploy/."""
    found = {f"files/dashboards/{path.name}": path.read_text()
             for path in sorted((ROOT / "deploy/dashboards").glob("*.json"))}
    found |= {f"files/rules/{path.name}": path.read_text()
              for path in sorted((ROOT / "deploy/rules").glob("*.yaml"))}
    return found


def documented(text):
    """(path of the key, its value, the comment above it or "") for every key of a YAML text.

    A map that is written on one line, and a list, count as one value.
    """
    lines = text.splitlines()

    def comment_above(line):
        words = []
        while line > 0 and lines[line - 1].lstrip().startswith("#"):
            line -= 1
            words.insert(0, lines[line].strip().lstrip("# "))
        return " ".join(words)

    def walk(node, path):
        for key, value in node.value:
            place = (*path, key.value)
            whole = yaml.safe_load(yaml.serialize(value))
            yield place, whole, comment_above(key.start_mark.line)
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                yield from walk(value, place)

    return list(walk(yaml.compose(text), ()))


def values_table():
    rows = ["| key | default | meaning |", "|---|---|---|"]
    entries = documented((CHART / "values.yaml").read_text())
    parents = {path[:-1] for path, _, _ in entries}
    for path, value, comment in entries:
        default = "" if path in parents else f"`{json.dumps(value)}`"
        rows.append(f"| `{'.'.join(path)}` | {default} | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def with_table(readme):
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + values_table() + END + tail


def files():
    """Path in the chart → the text it must have."""
    return {**copies(), "README.md": with_table((CHART / "README.md").read_text())}


def main():
    for path, text in files().items():
        (CHART / path).parent.mkdir(parents=True, exist_ok=True)
        (CHART / path).write_text(text)
    stale = {path for path in (CHART / "files").rglob("*") if path.is_file()}
    for path in stale - {CHART / name for name in copies()}:
        path.unlink()


if __name__ == "__main__":
    main()
