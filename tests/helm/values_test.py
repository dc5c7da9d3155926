"""What the chart refuses, and with which words; and that its copies and tables are not stale.
Budget: 30 s.
"""

import functools
import json
import re
import sys
import unittest

import yaml

import helm

sys.path.append(str(helm.ROOT / 'helm'))
import sync  # noqa: E402

DEMO = {'insecureNetwork': True}


def Merged(base, values):
    """values laid over base, maps key by key."""
    merged = dict(base)
    for key, value in values.items():
        known = merged.get(key)
        merged[key] = Merged(known, value) if isinstance(known, dict) and isinstance(
            value, dict) else value
    return merged


def ErrorOf(values):
    try:
        helm.Render(Merged(DEMO, values))
    except helm.RenderError as error:
        return str(error)
    return ''


@functools.cache
def ErrorsOfContradictions():
    return [ErrorOf(values) for values, _ in CONTRADICTIONS]


def Pool(**fields):
    return {'pools': [{'name': 'e4b', 'model': 'facet-demo-e4b', **fields}]}


def Prices(*dates):
    return {'prices': [{'device_class': 'h100', 'dates': [
        {'from': start, 'usd_per_hour': usd} for start, usd in dates]}]}


# Values with one mistake each, and where the schema says it is.
TYPOS = [
    ({'insecurenetwork': True}, 'insecurenetwork'),
    ({'insecureNetwork': 'yes'}, '/insecureNetwork'),
    ({'router': {'replica': 3}}, '/router'),
    ({'router': {'replicas': '3'}}, '/router/replicas'),
    ({'router': {'replicas': -1}}, '/router/replicas'),
    ({'router': {'drainSeconds': 0}}, '/router/drainSeconds'),
    ({'router': {'config': {'queue_request_max': 5}}}, '/router/config'),
    ({'router': {'config': {'relay_threads': 65}}}, '/router/config/relay_threads'),
    ({'router': {'config': {'grpc_address': '0.0.0.0:1'}}}, '/router/config'),
    ({'router': {'service': {'type': 'ExternalName'}}}, '/router/service/type'),
    ({'router': {'service': {'grpcPort': 70700}}}, '/router/service/grpcPort'),
    ({'router': {'topologySpread': {'whenUnsatisfiable': 'Maybe'}}},
     '/router/topologySpread/whenUnsatisfiable'),
    ({'router': {'podDisruptionBudget': {'minAvailable': 'half'}}},
     '/router/podDisruptionBudget/minAvailable'),
    ({'router': {'resources': {'request': {'cpu': 1}}}}, '/router/resources'),
    ({'images': {'router': {'tag': 'latest'}}}, '/images/router/tag'),
    ({'images': {'worker': {}}}, '/images'),
    ({'images': {'router': {'digest': 'sha256:12'}}}, '/images/router/digest'),
    ({'models': []}, '/models'),
    ({'models': [{'name': 'a', 'dir': '/a'}]}, '/models/0'),
    ({'models': [{'name': 'a', 'directory': '/a', 'slo': {'ttft_ms': 500}}]}, '/models/0/slo'),
    ({'modelStorage': {'source': 's3'}}, '/modelStorage/source'),
    ({'modelStorage': {'download': {'token': 'hf_secret'}}}, '/modelStorage/download'),
    ({'tenants': {'keys': ['fk_1']}}, '/tenants'),
    (Prices(('2026-01-01', '2.10')), '/prices/0/dates/0/from'),
    (Prices(('2026-01-01T00:00:00+01:00', '2.10')), '/prices/0/dates/0/from'),
    (Prices(('2026-01-01T00:00:00Z', 2.1)), '/prices/0/dates/0/usd_per_hour'),
    (Prices(('2026-01-01T00:00:00Z', '100000.5')), '/prices/0/dates/0/usd_per_hour'),
    (Prices(), '/prices/0/dates'),
    ({'prices': [{'class': 'h100'}]}, '/prices/0'),
    ({'ledger': {'enabled': True, 'accessModes': ['ReadWriteOncePod']}}, '/ledger/accessModes/0'),
    ({'ledger': {'directory': '/ledger'}}, '/ledger'),
    ({'pools': []}, '/pools'),
    (Pool(name='E4B'), '/pools/0/name'),
    (Pool(replica=1), '/pools/0'),
    (Pool(device='gpu'), '/pools/0/device'),
    (Pool(config={'dtype': 'fp16'}), '/pools/0/config/dtype'),
    (Pool(config={'kv_byte': 1}), '/pools/0/config'),
    (Pool(config={'step_model': {'base_ms': 1}}), '/pools/0/config/step_model'),
    (Pool(config={'step_model': {'base_ns': -1}}), '/pools/0/config/step_model/base_ns'),
    (Pool(expertGroup={'key': 'secret'}), '/pools/0/expertGroup'),
    (Pool(autoscaling={'enabled': 'true'}), '/pools/0/autoscaling/enabled'),
    ({'poolDefaults': {'name': 'x'}}, '/poolDefaults'),
    ({'monitoring': {'podMonitor': {'interval': '15'}}}, '/monitoring/podMonitor/interval'),
    ({'networkPolicy': {'clientsFrom': [{'podSelectors': {}}]}}, '/networkPolicy/clientsFrom/0'),
]

# Values that contradict each other, and the sentence.
CONTRADICTIONS = [
    ({'insecureNetwork': False},
     'router and workers would talk in plain text: set workerTls.existingSecret, or '
     'insecureNetwork: true if the pod network is private'),
    ({'insecureNetwork': False, 'workerTls': {'existingSecret': 'a'},
      'routerTls': {'existingSecret': 'b'}},
     'routerTls is set, and HTTP has no TLS: set router.http.enabled: false'),
    ({'router': {'terminationGracePeriodSeconds': 134}},
     'router.terminationGracePeriodSeconds is 134, less than preStopSeconds + drainSeconds = 135'),
    ({'models': [{'name': 'a', 'directory': '/a'}, {'name': 'a', 'directory': '/b'}]},
     'models: "a" stands twice'),
    ({'modelStorage': {'source': 'hub'}}, 'models: "facet-demo-e4b" has no hub.repository'),
    ({'modelStorage': {'source': 'hub'},
      'models': [{'name': 'a', 'directory': '/a', 'hub': {'repository': 'a/b', 'revision': 'c'}}]},
     'models: "a" has the absolute directory /a'),
    ({'models': [{'name': 'a', 'directory': 'a'}]}, 'models: "a" has the relative directory a'),
    ({'modelStorage': {'source': 'pvc'}}, 'modelStorage.source is pvc, and existingClaim is empty'),
    ({'ledger': {'existingClaim': 'bills'}},
     'ledger.existingClaim is set, and ledger.enabled is false'),
    ({'prices': Prices(('2026-01-01T00:00:00Z', '2'))['prices'] * 2},
     'prices: device_class "h100" stands twice'),
    (Prices(('2026-02-30T00:00:00Z', '2')),
     'prices: device_class "h100": there is no instant 2026-02-30T00:00:00Z'),
    (Prices(('2026-02-01T00:00:00Z', '2'), ('2026-02-01T00:00:00Z', '1')),
     'prices: device_class "h100": 2026-02-01T00:00:00Z is not later than 2026-02-01T00:00:00Z'),
    ({**Prices(('2026-02-01T00:00:00Z', '2')),
      **Pool(device='cuda', resources={'limits': {'nvidia.com/gpu': 1}})},
     'device is cuda, and config.device_class is empty; prices are by class'),
    ({'serviceAccount': {'create': False}}, 'serviceAccount.name is empty'),
    ({'pools': Pool()['pools'] * 2}, 'pool "e4b" stands twice'),
    (Pool(name='router'), 'pool "router": that name is taken'),
    (Pool(name='default'), 'pool "default": that name is taken'),
    (Pool(model='b'), 'pool "e4b": its model "b" is not among models'),
    (Pool(name='a' * 47), 'has 53 characters; a StatefulSet\'s name may have 52'),
    (Pool(drainSeconds=60, terminationGracePeriodSeconds=59),
     'terminationGracePeriodSeconds is 59, less than drainSeconds = 60'),
    (Pool(autoscaling={'enabled': True}, expertGroup={'ranks': 2, 'existingSecret': 'g'}),
     'autoscaling and expertGroup do not go together'),
    (Pool(autoscaling={'enabled': True}, replicas=2), 'replicas and autoscaling do not go together'),
    (Pool(autoscaling={'enabled': True, 'minReplicas': 5}),
     'autoscaling.minReplicas is 5, more than maxReplicas = 4'),
    (Pool(expertGroup={'ranks': 3, 'existingSecret': 'g'}),
     'expertGroup.ranks is 3; it must be 2, 4 or 8'),
    (Pool(expertGroup={'ranks': 2}),
     'expertGroup.existingSecret is empty; make one with: kubectl -n serving create secret generic'),
    (Pool(expertGroup={'spares': 1}), 'expertGroup.spares is 1, and there are no ranks'),
    (Pool(expertGroup={'ranks': 2, 'existingSecret': 'g'}, replicas=2),
     'replicas and expertGroup do not go together'),
    (Pool(device='cuda'), 'device is cuda, and resources.limits has no nvidia.com/gpu'),
    ({'monitoring': {'podMonitor': {'enabled': True}}},
     'monitoring.podMonitor is enabled, and the cluster has no monitoring.coreos.com/v1/PodMonitor'),
    ({'monitoring': {'serviceMonitor': {'enabled': True}}}, 'monitoring.coreos.com/v1/ServiceMonitor'),
    ({'monitoring': {'prometheusRule': {'enabled': True}}}, 'monitoring.coreos.com/v1/PrometheusRule'),
]


class RefusalTest(unittest.TestCase):

    def test_a_typo_is_refused_where_it_is(self):
        for values, place in TYPOS:
            with self.subTest(values=values):
                error = ErrorOf(values)
                self.assertIn("values don't meet the specifications", error)
                self.assertRegex(error, f"at '[^']*{re.escape(place)}'|'{re.escape(place)}'")

    def test_a_contradiction_ends_in_a_sentence(self):
        for (values, sentence), error in zip(CONTRADICTIONS, ErrorsOfContradictions()):
            with self.subTest(values=values):
                self.assertIn(sentence, error)

    def test_each_sentence_of_the_chart_is_met_above(self):
        errors = ErrorsOfContradictions()
        sentences = re.findall(r'fail \(?(?:printf )?"([^"]*)"',
                               (helm.CHART / 'templates/_checks.tpl').read_text())
        self.assertGreater(len(sentences), 20)
        for sentence in sentences:
            words = re.compile('.+?'.join(map(re.escape, re.split(r'%[sdq]', sentence))))
            self.assertTrue(any(map(words.search, errors)), sentence)

    def test_an_old_cluster_is_refused(self):
        with self.assertRaisesRegex(helm.RenderError, 'requires kubeVersion: >=1.30.0-0'):
            helm.Render(DEMO, kubernetes='v1.29.3')


class DriftTest(unittest.TestCase):

    def setUp(self):
        self.values = yaml.safe_load((helm.CHART / 'values.yaml').read_text())
        self.schema = json.loads((helm.CHART / 'values.schema.json').read_text())

    def test_copies_and_table_are_what_the_sources_say(self):
        for path, text in sync.files().items():
            self.assertEqual((helm.CHART / path).read_text(), text, f'{path}: run helm/sync.py')
        held = {str(path.relative_to(helm.CHART)) for path in (helm.CHART / 'files').rglob('*.*')}
        self.assertEqual(held, set(sync.copies()))

    def test_every_key_has_a_comment(self):
        text = (helm.CHART / 'values.yaml').read_text()
        self.assertEqual([path for path, _, comment in sync.documented(text) if not comment], [])

    def test_the_schema_knows_the_keys_of_the_values_and_no_others(self):
        self._SameKeys(self.values, self.schema, 'values', optional={'global'})
        pool = set(self.schema['$defs']['pool']['properties'])
        self.assertEqual(pool, set(self.values['poolDefaults']) | {'name', 'model'})

    def _SameKeys(self, values, schema, place, optional=frozenset()):
        schema = self._Resolved(schema)
        if schema.get('type') != 'object' or schema.get('additionalProperties', True) is not False:
            return
        known = set(schema['properties']) - optional
        if place.endswith(('.config', '.resources', '.podDisruptionBudget.maxUnavailable')):
            self.assertLessEqual(set(values), known, place)
            return
        self.assertEqual(known, set(values), place)
        for key, value in values.items():
            if isinstance(value, dict):
                self._SameKeys(value, schema['properties'][key], f'{place}.{key}')

    def _Resolved(self, schema):
        name = schema.get('$ref', '').removeprefix('#/$defs/')
        return self.schema['$defs'][name] if name else schema

    def test_every_map_is_closed_but_those_of_kubernetes(self):
        free = set()

        def Walk(schema, place):
            if schema.get('type') == 'object':
                extra = schema.get('additionalProperties', True)
                if extra is True:
                    free.add(place.rsplit('.', 1)[-1])
            for key, child in schema.get('properties', {}).items():
                Walk(child, f'{place}.{key}')
            if isinstance(schema.get('items'), dict):
                Walk(schema['items'], place)

        Walk(self.schema, 'values')
        for name, definition in self.schema['$defs'].items():
            Walk(definition, name)
        self.assertEqual(free, {'global', 'affinity', 'requests', 'limits', 'claims',
                                'namespaceSelector', 'podSelector', 'ipBlock'})

    def test_fields_of_the_cluster_config_are_all_there(self):
        """Those that the chart does not write itself."""
        proto = (helm.ROOT / 'proto/facet/v1/config.proto').read_text()

        def Fields(message):
            body = re.search(rf'^message {message} {{\n(.*?)^}}', proto, re.M | re.S)[1]
            return set(re.findall(r'^  (?:repeated )?[\w.]+ (\w+) = \d+;', body, re.M))

        definitions = self.schema['$defs']
        self.assertEqual(set(definitions['routerConfig']['properties']),
                         Fields('RouterConfig') - {'grpc_address', 'http_address', 'name',
                                                   'metrics_address', 'drain_ms_max', 'tls'})
        self.assertEqual(set(definitions['poolConfig']['properties']),
                         Fields('PoolConfig') - {'name', 'model', 'device', 'workers',
                                                 'drain_ms_max', 'expert_group'})
        self.assertEqual(set(definitions['stepModel']['properties']), Fields('StepModelConfig'))
        model = definitions['model']['properties']
        self.assertEqual(set(model) - {'hub'}, Fields('ModelConfig'))
        self.assertEqual(set(model['slo']['properties']), Fields('SloConfig'))
        self.assertEqual(set(definitions['devicePrices']['properties']), Fields('DevicePrices'))
        self.assertEqual(set(definitions['datedPrice']['properties']), Fields('DatedPrice'))


if __name__ == '__main__':
    unittest.main()
