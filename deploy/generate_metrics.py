#!/usr/bin/env python3
"""Reads deploy/metrics.yaml and writes metrics_registry.h: one struct per set, one member per metric.

usage: generate_metrics.py METRICS_YAML OUTPUT_HEADER
Only the standard library, since the build runs this on a bare machine.
"""

import pathlib
import re
import sys

TYPES = {"counter": "Counter", "gauge": "Gauge", "histogram": "Histogram"}
SCALES = {"one": "1", "millions": "1e6", "nanoseconds": "1e-9", "nano_usd": "1e-9"}
KEYS = {"name", "field", "type", "unit", "help", "labels", "buckets"}


def parse(path):
    """The sets in order: {set name: [{key: value}]}. Refuses every shape but the one in use."""
    sets = {}
    current = None
    for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if match := re.fullmatch(r"(\w+):", line):
            current = sets.setdefault(match[1], [])
        elif match := re.fullmatch(r"  (- |  )(\w+): (.+)", line):
            if match[1] == "- ":
                current.append({})
            key, value = match[2], match[3]
            if key not in KEYS or key in current[-1]:
                raise SystemExit(f"{path}:{number}: {key} is not known or stands twice")
            if value.startswith("["):
                value = [item.strip() for item in value.strip("[]").split(",") if item.strip()]
            current[-1][key] = value
        else:
            raise SystemExit(f"{path}:{number}: cannot read this line: {line}")
    return sets


def check(metric):
    name, kind = metric["name"], metric["type"]
    if not re.fullmatch(r"facet_[a-z_]+", name) or kind not in TYPES:
        raise SystemExit(f"{name}: wrong name or type")
    if (kind == "counter") != name.endswith("_total") or (kind == "counter") != ("unit" in metric):
        raise SystemExit(f"{name}: counters, and only they, end in _total and have a unit")
    if (kind == "histogram") != ("buckets" in metric):
        raise SystemExit(f"{name}: histograms, and only they, have buckets")


def member(metric):
    kind = TYPES[metric["type"]]
    struct = "".join(part.capitalize() for part in metric["field"].split("_"))
    parameters = ", ".join(f"std::string_view {label}" for label in metric["labels"])
    labels = ", ".join(f'"{label}"' for label in metric["labels"])
    extra = ""
    if kind == "Counter":
        extra = f", /*scale=*/{SCALES[metric['unit']]}"
    elif kind == "Histogram":
        extra = ", {" + ", ".join(metric["buckets"]) + "}"
    return f"""  // {metric['name']}: {metric['help']}
  struct {struct}Family : {kind}Family {{
    {struct}Family() : {kind}Family("{metric['name']}", "{metric['help']}", {{{labels}}}{extra}) {{}}
    {kind}& At({parameters}) {{ return Cell({{{", ".join(metric["labels"])}}}); }}
  }} {metric['field']};
"""


def render(sets):
    out = ["// Written by deploy/generate_metrics.py from deploy/metrics.yaml. Do not edit.",
           "#pragma once", "", "#include <string_view>", "#include <vector>", "",
           '#include "base/metrics.h"', "", "namespace facet {", ""]
    for name, metrics in sets.items():
        struct = name.capitalize() + "Metrics"
        out.append(f"struct {struct} {{")
        for metric in metrics:
            check(metric)
            out.append(member(metric))
        out.append("  void CollectInto(std::vector<prometheus::MetricFamily>& out) const {")
        out += [f"    {metric['field']}.CollectInto(out);" for metric in metrics]
        out += ["  }", "};", ""]
    out += ["}  // namespace facet", ""]
    return "\n".join(out)


if __name__ == "__main__":
    with open(sys.argv[2], "w", encoding="utf-8") as header:
        header.write(render(parse(sys.argv[1])))
