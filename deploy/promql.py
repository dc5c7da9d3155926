"""Which series and labels a PromQL query names, and whether deploy/metrics.yaml knows them.

Not a parser of PromQL: it reads the shape that our queries keep to. Aggregations are written
`sum by (labels) (...)`, selectors `name{label="value"}`, and recorded series are named after their
labels, `model:facet_what:operation`, as Prometheus' naming convention asks.
"""

import pathlib
import re

import generate_metrics

METRICS = pathlib.Path(__file__).resolve().parent / "metrics.yaml"
TARGET_LABELS = {"cluster", "namespace", "job", "instance"}  # Given by the scrape, not by Facet.

SERIES = re.compile(r"(?<![\w:])((?:[a-z_]+:)?facet_\w+(?::\w+)?)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
AGGREGATION = re.compile(r"\b(?:by|on|ignoring|group_left|group_right|without)\s*\(([^()]*)\)")
BY = re.compile(r"\bby\s*\(([^()]*)\)\s*\(")
QUOTED = re.compile(r'"[^"]*"')


def contract(path=METRICS):
    """Every metric of the contract: name → its entry in metrics.yaml."""
    return {metric["name"]: metric
            for metrics in generate_metrics.parse(path).values() for metric in metrics}


def metric_of(name, metrics):
    """The metric of the contract that a series belongs to (histograms have three), or None."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if base != name and metrics.get(base, {}).get("type") == "histogram":
        return base
    return name if name in metrics and metrics[name]["type"] != "histogram" else None


def labels_of(name, metrics):
    """The labels of a series, the scrape's own left out; None if there is no such series."""
    if ":" in name:
        return {name.split(":")[0]}
    metric = metric_of(name, metrics)
    if metric is None:
        return None
    return set(metrics[metric]["labels"]) | ({"le"} if name.endswith("_bucket") else set())


def series(query):
    """The series that a query names: a list of (name, [(label, operator, value)])."""
    return [(match[1], MATCHER.findall(match[2] or "")) for match in SERIES.finditer(query)]


def inside(query, start):
    """The text from `start` to the parenthesis that closes what is open there."""
    depth = 1
    for index in range(start, len(query)):
        depth += {"(": 1, ")": -1}.get(query[index], 0)
        if depth == 0:
            return query[start:index]
    raise ValueError(f"a parenthesis is not closed: {query}")


def names_in(label_list):
    return [label.strip() for label in label_list.split(",") if label.strip()]


def problems(query, metrics, recorded=()):
    """What is wrong with a query, as sentences: unknown series, labels, or values of a label."""
    found = []
    for name, matchers in series(query):
        known = labels_of(name, metrics)
        if known is None or (":" in name and name not in recorded):
            found.append(f"{name} does not exist")
            continue
        for label, operator, value in matchers:
            if label not in known | TARGET_LABELS:
                found.append(f"{name} has no label {label}")
            elif "$" not in value:
                found += unknown_values(name, label, value, metrics)
    for match in BY.finditer(query):
        for name, _ in series(inside(query, match.end())):
            known = (labels_of(name, metrics) or set()) | TARGET_LABELS
            found += [f"{name} has no label {label}, which is aggregated by"
                      for label in names_in(match[1]) if label not in known]
    named = [labels_of(name, metrics) or set() for name, _ in series(query)]
    known = set().union(TARGET_LABELS, *named)
    for match in AGGREGATION.finditer(QUOTED.sub('""', query)):
        found += [f"no series of the query has label {label}"
                  for label in names_in(match[1]) if label not in known]
    return found


def unknown_values(name, label, value, metrics):
    """The help text lists the values of some labels, after "LABEL is", and the buckets are those of
    le; others may be anything."""
    metric = metrics.get(metric_of(name, metrics), {})
    if label == "le":
        return [] if value in metric["buckets"] else [f"{name} has no bucket {value}"]
    text = metric.get("help", "")
    listed = re.search(rf"\b{label} is (.*)", text)
    if not listed:
        return []
    words = re.findall(r"\w+", listed[1])
    return [f"{name} has no {label} {wanted}" for wanted in value.split("|")
            if not any(re.fullmatch(wanted, word) for word in words)]


def result_labels(query, metrics):
    """The labels that a query's result may carry: what it aggregates by, else the series' own."""
    grouped = [set(names_in(match[1])) for match in BY.finditer(query)]
    named = grouped or [labels_of(name, metrics) or set() for name, _ in series(query)]
    return set().union(*named)
