#!/usr/bin/env python3
"""Writes the Grafana dashboards beside it from panels.py and deploy/metrics.yaml.

usage: generate.py
Nothing but the standard library. A test says when the files are stale.
"""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import promql  # noqa: E402
from panels import DASHBOARDS  # noqa: E402

SCHEMA_VERSION = 39  # Grafana 10.4 and newer.
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Variable → the series that lists its values. All of them may hold several values, or all.
VARIABLES = {"cluster": "facet_device_seconds_total", "namespace": "facet_device_seconds_total",
             "model": "facet_device_seconds_total", "pool": "facet_device_seconds_total",
             "tenant": "facet_tokens_total"}
FROM_SCRAPE = {"cluster", "namespace"}
WIDTH, PANEL_HEIGHT = 24, 8


def with_selectors(query, metrics):
    """Adds label=~"$label" to every series, for each variable that all series of the query have."""
    named = promql.series(query)
    common = set.intersection(*(promql.labels_of(name, metrics) | FROM_SCRAPE for name, _ in named))
    added = [f'{label}=~"${label}"' for label in VARIABLES if label in common]

    def extend(match):
        own = [match[2]] if match[2] else []
        return match[1] + "{" + ", ".join(added + own) + "}"

    return promql.SERIES.sub(extend, query)


def variable(name, listed_by):
    query = f"label_values({listed_by}, {name})"
    return {"name": name, "label": name, "type": "query", "datasource": SOURCE,
            "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
            "multi": True, "includeAll": True, "allValue": ".*", "hide": 0,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}


def templating():
    source = {"name": "datasource", "label": "data source", "type": "datasource",
              "query": "prometheus", "hide": 0}
    runbooks = {"name": "runbooks", "label": "runbooks at", "type": "textbox", "hide": 2,
                "query": "deploy/runbooks", "current": {"text": "deploy/runbooks",
                                                        "value": "deploy/runbooks"},
                "description": "Where deploy/runbooks is served; part of the links."}
    return {"list": [source, *(variable(*item) for item in VARIABLES.items()), runbooks]}


def panel_json(panel, panel_id, place, metrics):
    targets = [{"refId": chr(ord("A") + index), "datasource": SOURCE, "legendFormat": legend,
                "expr": with_selectors(query, metrics), "instant": panel.whole_range,
                "range": not panel.whole_range}
               for index, (legend, query) in enumerate(panel.queries.items())]
    defaults = {"unit": panel.unit, "min": 0}
    if not panel.whole_range:
        stacking = {"mode": "normal" if panel.stack else "none", "group": "A"}
        defaults["custom"] = {"fillOpacity": 25 if panel.stack else 5, "showPoints": "never",
                              "stacking": stacking}
    return {"id": panel_id, "type": "bargauge" if panel.whole_range else "timeseries",
            "title": panel.title, "description": panel.description, "datasource": SOURCE,
            "gridPos": place, "fieldConfig": {"defaults": defaults, "overrides": []},
            "targets": targets}


def panels_json(rows, metrics):
    panels = []
    top = 0
    for row in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.question,
                       "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})
        width = WIDTH // len(row.panels)
        for index, panel in enumerate(row.panels):
            place = {"x": index * width, "y": top + 1, "w": width, "h": PANEL_HEIGHT}
            panels.append(panel_json(panel, len(panels) + 1, place, metrics))
        top += 1 + PANEL_HEIGHT
    return panels


def dashboard_json(dashboard, metrics):
    links = [{"title": "Runbook", "type": "link", "url": "${runbooks}/" + dashboard.runbook,
              "targetBlank": True},
             {"title": "Facet", "type": "dashboards", "tags": ["facet"], "asDropdown": True,
              "keepTime": True, "includeVars": True}]
    return {"uid": dashboard.uid, "id": None, "title": dashboard.title,
            "description": dashboard.description, "tags": ["facet"], "version": 1,
            "schemaVersion": SCHEMA_VERSION, "editable": True, "timezone": "browser",
            "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "graphTooltip": 1,
            "links": links, "templating": templating(),
            "panels": panels_json(dashboard.rows, metrics)}


def render(metrics=None):
    """File name → text of every dashboard."""
    metrics = metrics or promql.contract()
    return {re.sub("^facet-", "", dashboard.uid) + ".json":
            json.dumps(dashboard_json(dashboard, metrics), indent=1) + "\n"
            for dashboard in DASHBOARDS}


if __name__ == "__main__":
    for name, text in render().items():
        (HERE / name).write_text(text, encoding="utf-8")
