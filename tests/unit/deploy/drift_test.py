"""Dashboards, rules and runbooks name what deploy/metrics.yaml holds, and leave nothing out."""

import functools
import json
import pathlib
import re
import sys
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
sys.path[:0] = [str(DEPLOY), str(DEPLOY / "dashboards")]

import generate  # noqa: E402
import promql  # noqa: E402

# Metrics that no dashboard shows, each with its reason.
EXEMPT = {}

LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
ALERT_LABEL = re.compile(r"\$labels\.(\w+)")
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
GRAFANA_VARIABLES = {"__rate_interval", "__range"}


@functools.cache
def dashboards():
    """File name → dashboard, as committed."""
    return {path.name: json.loads(path.read_text())
            for path in sorted((DEPLOY / "dashboards").glob("*.json"))}


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@functools.cache
def rules():
    return [rule for path in sorted((DEPLOY / "rules").glob("*.yaml"))
            for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts():
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded():
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


@functools.cache
def runbooks():
    return {path.name: path.read_text() for path in sorted((DEPLOY / "runbooks").glob("*.md"))}


def code_of(text):
    """What stands in a Markdown text as code: blocks, then spans."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    return blocks + re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


def query_problems(metrics, sources):
    """One line for each thing that a query names and the contract lacks."""
    known = recorded()
    found = []
    for place, query in sources:
        found += [f"{place}: {problem}" for problem in promql.problems(query, metrics, known)]
    return found


def panel_queries():
    return [(f"{name}, {panel['title']}", target["expr"])
            for name, dashboard in dashboards().items()
            for panel in panels(dashboard) for target in panel["targets"]]


def rule_queries():
    return [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def runbook_queries():
    return [(name, code) for name, text in runbooks().items() for code in code_of(text)]


def everything():
    return panel_queries() + rule_queries() + runbook_queries()


def shown(metrics):
    """The metrics that some panel shows, itself or through a recorded series."""
    known = recorded()
    queries = [query for _, query in panel_queries()]
    named = [name for query in queries for name, _ in promql.series(query)]
    named += [name for it in named if it in known for name, _ in promql.series(known[it])]
    return {promql.metric_of(name, metrics) for name in named}


class DriftTest(unittest.TestCase):

    def setUp(self):
        self.metrics = promql.contract()

    def test_every_name_and_label_stands_in_the_contract(self):
        self.assertGreater(len(everything()), 100)
        self.assertEqual(query_problems(self.metrics, everything()), [])

    def test_every_metric_is_on_a_dashboard_or_exempt(self):
        self.assertEqual(set(self.metrics) - shown(self.metrics), set(EXEMPT))

    def test_a_renamed_metric_is_found(self):
        for name in set(self.metrics) - set(EXEMPT):
            renamed = {("facet_renamed_total" if key == name else key): metric
                       for key, metric in self.metrics.items()}
            problems = query_problems(renamed, panel_queries() + list(recorded().items()))
            self.assertTrue(any(name in problem and "does not exist" in problem
                                for problem in problems), name)
            self.assertIn("facet_renamed_total", set(renamed) - shown(renamed))

    def test_a_renamed_label_or_value_is_found(self):
        def changed(name, **fields):
            return {**self.metrics, name: {**self.metrics[name], **fields}}

        for metrics in (changed("facet_cost_usd_total", labels=["model", "tenant", "stage"]),
                        changed("facet_request_seconds", labels=["served"]),
                        changed("facet_worker_sequences", help="state is busy or waiting.")):
            self.assertNotEqual(query_problems(metrics, panel_queries()), [])

    def test_the_reader_of_queries_finds_mistakes(self):
        for query, problem in (
                ("rate(facet_nothing_total[5m])", "facet_nothing_total does not exist"),
                ("facet_request_seconds", "facet_request_seconds does not exist"),
                ('facet_kv_used_bytes{tenant="a"}', "facet_kv_used_bytes has no label tenant"),
                ("sum by (tenant) (facet_kv_used_bytes)",
                 "facet_kv_used_bytes has no label tenant, which is aggregated by"),
                ('facet_worker_sequences{state="asleep"}',
                 "facet_worker_sequences has no state asleep"),
                ('facet_request_seconds_bucket{le="3"}',
                 "facet_request_seconds_bucket has no bucket 3"),
                ("model:facet_gone:rate5m", "model:facet_gone:rate5m does not exist")):
            self.assertIn(problem, promql.problems(query, self.metrics), query)

    def test_recorded_series_are_named_after_what_they_keep(self):
        for name, query in recorded().items():
            kept = {frozenset(promql.names_in(match[1])) for match in promql.BY.finditer(query)}
            self.assertEqual(kept, {frozenset({"cluster", "namespace", name.split(":")[0]})}, name)


class DashboardTest(unittest.TestCase):

    def test_committed_files_are_what_the_source_says(self):
        committed = {path.name: path.read_text() for path in (DEPLOY / "dashboards").glob("*.json")}
        self.assertEqual(committed, generate.render(), "run deploy/dashboards/generate.py")

    def test_panels_keep_the_conventions(self):
        for name, dashboard in dashboards().items():
            self.assertIsNone(dashboard["id"])
            self.assertTrue(dashboard["uid"].startswith("facet-"))
            variables = {item["name"] for item in dashboard["templating"]["list"]}
            for panel in panels(dashboard):
                place = f"{name}, {panel['title']}"
                self.assertTrue(panel["description"].endswith("."), place)
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], place)
                self.assertEqual(panel["datasource"]["uid"], "${datasource}", place)
                for target in panel["targets"]:
                    windows = re.findall(r"\[([^\]]*)\]", target["expr"])
                    self.assertLessEqual(set(windows), {"$" + it for it in GRAFANA_VARIABLES}, place)
                    used = set(VARIABLE.findall(target["expr"])) - GRAFANA_VARIABLES
                    self.assertLessEqual(used, variables, place)

    def test_counters_are_shown_as_rates(self):
        metrics = promql.contract()
        for place, query in panel_queries():
            for match in promql.SERIES.finditer(query):
                if metrics.get(match[1], {}).get("type") == "counter":
                    self.assertTrue(query[match.end():].startswith("["), f"{place}: {match[1]}")

    def test_legends_name_labels_of_the_result(self):
        metrics = promql.contract()
        for name, dashboard in dashboards().items():
            for panel in panels(dashboard):
                for target in panel["targets"]:
                    named = set(LEGEND_LABEL.findall(target["legendFormat"]))
                    self.assertLessEqual(named, promql.result_labels(target["expr"], metrics),
                                         f"{name}, {panel['title']}")

    def test_nothing_is_fetched_from_elsewhere(self):
        for name, dashboard in dashboards().items():
            self.assertNotIn("://", json.dumps(dashboard), name)

    def test_links_lead_to_runbooks(self):
        for name, dashboard in dashboards().items():
            linked = [link["url"] for link in dashboard["links"] if link["type"] == "link"]
            self.assertEqual(len(linked), 1, name)
            self.assertIn(linked[0].removeprefix("${runbooks}/"), runbooks(), name)


class AlertTest(unittest.TestCase):

    def test_alerts_say_how_bad_what_and_where_to_read_on(self):
        for name, alert in alerts().items():
            self.assertIn(alert["labels"]["severity"], {"critical", "warning", "info"}, name)
            self.assertIn("for", alert, name)
            self.assertEqual(set(alert["annotations"]),
                             {"summary", "description", "runbook_url"}, name)

    def test_every_alert_has_a_heading_in_a_runbook_and_none_is_left_over(self):
        headings = {f"deploy/runbooks/{name}#{heading.lower()}"
                    for name, text in runbooks().items()
                    for heading in re.findall(r"^## (Facet\w+)$", text, re.M)}
        linked = {name: alert["annotations"]["runbook_url"] for name, alert in alerts().items()}
        self.assertEqual(set(linked.values()), headings)
        for name, url in linked.items():
            self.assertTrue(url.endswith("#" + name.lower()), url)

    def test_links_between_runbooks_lead_somewhere(self):
        for name, text in runbooks().items():
            for target, anchor in re.findall(r"\]\(([\w.]+)#(\w+)\)", text):
                self.assertIn(f"\n## {anchor}\n", runbooks()[target].lower(), f"{name}: {anchor}")

    def test_annotations_name_labels_of_the_result(self):
        metrics = promql.contract()
        for name, alert in alerts().items():
            named = set(ALERT_LABEL.findall(str(alert["annotations"])))
            self.assertLessEqual(named, promql.result_labels(alert["expr"], metrics), name)

    def test_every_alert_is_tested_silent_and_firing(self):
        silent, firing = set(), set()
        for path in pathlib.Path(__file__).parent.glob("*alerts_test.yaml"):
            for group in yaml.safe_load(path.read_text())["tests"]:
                for check in group["promql_expr_test"]:
                    name = re.search(r'alertname="(\w+)"', check["expr"])[1]
                    (firing if check["exp_samples"] else silent).add(name)
        self.assertEqual(silent, set(alerts()))
        self.assertEqual(firing, set(alerts()))


if __name__ == "__main__":
    unittest.main()
