"""What the chart renders, for every value set of ci/: Kubernetes takes it, and it fits together.
Budget: 60 s.
"""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils

import helm
from objects import (Config, ConfigText, Containers, Matches, Place, PodOf,
                     Probes, Renders, Secrets, WORKLOADS, WorkersOf)

sys.path.append(str(helm.ROOT / 'deploy'))
import promql  # noqa: E402

BIN = pathlib.Path(os.environ.get('FACET_BIN', helm.ROOT / 'build/dev/bin'))
KUBERNETES_VERSIONS = ['1.35', '1.36', '1.37']
SPARE_SECONDS = 5  # Between the end of a drain and SIGKILL.

# The library reads the definitions of a version, 2 MB, for each object.
kubernetes_validate.utils.schema_contents = functools.cache(
    kubernetes_validate.utils.schema_contents)


class KubernetesTest(unittest.TestCase):

    def test_the_chart_has_no_lint(self):
        self.assertEqual(helm.Problems(), [])

    def test_there_are_value_sets_enough(self):
        self.assertGreaterEqual(len(helm.CiValues()), 12)

    def test_every_object_is_valid_in_the_newest_versions(self):
        crds = json.loads(pathlib.Path(__file__).with_name('crd_schemas.json').read_text())
        seen = set()
        for name, render in Renders():
            for it in render.all():
                text = json.dumps(it, sort_keys=True)
                if text in seen:
                    continue
                seen.add(text)
                if it['kind'] in crds:
                    jsonschema.validate(it, {**crds[it['kind']], '$defs': crds['$defs']})
                    continue
                for version in KUBERNETES_VERSIONS:
                    try:
                        kubernetes_validate.validate(it, version, strict=True)
                    except kubernetes_validate.ValidationError as error:
                        self.fail(f'{Place(name, it)} for {version}: {error.message} at '
                                  f'{list(error.absolute_path)}')

    def test_the_validator_sees_an_unknown_field(self):
        pod = next(it for _, render in Renders() for it in render.OfKind('Pod'))
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**pod, 'spec': {**pod['spec'], 'restart': 'Never'}},
                                         '1.37', strict=True)


class InvariantTest(unittest.TestCase):

    def Workloads(self, *kinds):
        for name, render in Renders():
            for it in render.OfKind(*(kinds or WORKLOADS)):
                metadata, spec = PodOf(it)
                yield Place(name, it), render, it, metadata, spec

    def test_names_are_short_and_unique(self):
        for name, render in Renders():
            places = [(it['kind'], it['metadata']['name']) for it in render.all()]
            self.assertEqual(len(places), len(set(places)), name)
            for kind, object_name in places:
                self.assertLessEqual(len(object_name), 52 if kind == 'StatefulSet' else 63)
                self.assertRegex(object_name, r'^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')

    def test_selectors_match_their_pods_and_no_others(self):
        for name, render in Renders():
            pods = {Place(name, it): PodOf(it)[0]['labels'] for it in render.OfKind(*WORKLOADS)}
            for it in render.all():
                spec = it.get('spec', {})
                if it['kind'] in ('Deployment', 'StatefulSet', 'PodDisruptionBudget'):
                    selector = spec['selector']['matchLabels']
                elif it['kind'] == 'Service':
                    selector = spec['selector']
                else:
                    continue
                self.assertNotIn('app.kubernetes.io/version', selector)
                matched = [labels for labels in pods.values() if Matches(selector, labels)]
                self.assertEqual(len(matched), 1, Place(name, it))
                self.assertTrue(Matches(selector, it['metadata']['labels']), Place(name, it))

    def test_references_lead_somewhere(self):
        for place, render, it, metadata, spec in self.Workloads():
            have = {(o['kind'], o['metadata']['name']) for o in render.objects}
            account = spec['serviceAccountName']
            self.assertTrue(('ServiceAccount', account) in have or account == 'default', place)
            volumes = {volume['name']: volume for volume in spec.get('volumes', [])}
            self.assertEqual(len(volumes), len(spec.get('volumes', [])), place)
            for volume in volumes.values():
                if 'configMap' in volume:
                    self.assertIn(('ConfigMap', volume['configMap']['name']), have, place)
                if 'secret' in volume:
                    self.assertIn(volume['secret']['secretName'], Secrets(render), place)
                if 'persistentVolumeClaim' in volume:
                    claim = volume['persistentVolumeClaim']['claimName']
                    self.assertTrue(('PersistentVolumeClaim', claim) in have or claim == 'weights')
            mounted = {mount['name'] for container in Containers(spec)
                       for mount in container.get('volumeMounts', [])}
            self.assertEqual(mounted, set(volumes), place)
            for container in Containers(spec):
                ports = {port['name'] for port in container.get('ports', [])}
                for probe in Probes(container).values():
                    if 'httpGet' in probe:
                        self.assertIn(probe['httpGet']['port'], ports, place)
                for variable in container.get('env', []):
                    secret = variable.get('valueFrom', {}).get('secretKeyRef')
                    if secret:
                        self.assertIn(secret['name'], Secrets(render), place)
            if it['kind'] == 'StatefulSet':
                self.assertIn(('Service', it['spec']['serviceName']), have, place)

    def test_ports_of_services_and_monitors_have_names_that_are_there(self):
        for name, render in Renders():
            pods = [PodOf(it) for it in render.OfKind(*WORKLOADS)]
            for it in render.OfKind('Service'):
                (_, spec), = [pod for pod in pods
                              if Matches(it['spec']['selector'], pod[0]['labels'])]
                ports = {port['name'] for port in spec['containers'][0]['ports']}
                self.assertLessEqual({port['targetPort'] for port in it['spec']['ports']}, ports,
                                     Place(name, it))
            for it in render.OfKind('ServiceMonitor'):
                selected = [service for service in render.OfKind('Service') if Matches(
                    it['spec']['selector']['matchLabels'], service['metadata']['labels'])]
                self.assertEqual(len(selected), 1, 'each router is scraped once')
                self.assertIn('metrics', {port['name'] for port in selected[0]['spec']['ports']})
            for it in render.OfKind('PodMonitor'):
                selector = it['spec']['selector']['matchLabels']
                self.assertEqual(sum(Matches(selector, labels['labels']) for labels, _ in pods),
                                 len(render.OfKind('StatefulSet')))
            for it in render.OfKind('HorizontalPodAutoscaler'):
                pool = render.Find('StatefulSet', it['spec']['scaleTargetRef']['name'])
                self.assertNotIn('replicas', pool['spec'], 'an upgrade would undo the scaling')

    def test_a_pod_ends_before_it_is_killed(self):
        for place, render, it, metadata, spec in self.Workloads('Deployment', 'StatefulSet'):
            config = Config(render)
            if it['kind'] == 'Deployment':
                drain_ms = config['router']['drain_ms_max']
            else:
                pool, = [pool for pool in config['pools']
                         if pool['name'] == metadata['labels']['facet-pool']]
                drain_ms = pool['drain_ms_max']
            sleep = spec['containers'][0].get('lifecycle', {}).get('preStop', {}).get('sleep', {})
            self.assertGreaterEqual(spec['terminationGracePeriodSeconds'],
                                    sleep.get('seconds', 0) + drain_ms / 1000 + SPARE_SECONDS, place)

    def test_pods_are_restricted(self):
        for place, _, it, metadata, spec in self.Workloads():
            self.assertIs(spec['automountServiceAccountToken'], False, place)
            security = spec['securityContext']
            self.assertIs(security['runAsNonRoot'], True, place)
            self.assertEqual(security['seccompProfile'], {'type': 'RuntimeDefault'}, place)
            for key in ('hostNetwork', 'hostPID', 'hostIPC'):
                self.assertNotIn(key, spec, place)
            for container in Containers(spec):
                self.assertEqual(container['securityContext'],
                                 {'allowPrivilegeEscalation': False, 'readOnlyRootFilesystem': True,
                                  'capabilities': {'drop': ['ALL']}}, place)
                self.assertTrue(container['resources']['requests']['cpu'], place)
                self.assertTrue(container['resources']['requests']['memory'], place)
                self.assertTrue(container['resources']['limits']['memory'], place)
                self.assertNotRegex(container['image'], r':latest$|^[^:@]+$', place)

    def test_servers_are_probed_and_liveness_does_not_ask_for_health(self):
        for place, _, it, metadata, spec in self.Workloads('Deployment', 'StatefulSet'):
            probes = Probes(spec['containers'][0])
            self.assertEqual(set(probes), {'startupProbe', 'livenessProbe', 'readinessProbe'}, place)
            self.assertEqual(probes['livenessProbe']['httpGet']['path'], '/livez', place)
            is_rank = any(volume['name'] == 'group' for volume in spec['volumes'])
            self.assertEqual('httpGet' in probes['readinessProbe'], is_rank, place)

    def test_no_secret_is_written_down(self):
        for name, render in Renders():
            self.assertEqual(render.OfKind('Secret'), [], name)
            for place, _, it, _, spec in self.Workloads():
                for container in Containers(spec):
                    for variable in container.get('env', []):
                        if re.search('KEY|TOKEN|SECRET', variable['name']):
                            self.assertIn('secretKeyRef', variable['valueFrom'], place)

    def test_only_the_job_sees_the_token_of_the_hub(self):
        for place, _, it, metadata, spec in self.Workloads():
            for volume in spec.get('volumes', []):
                if volume.get('secret', {}).get('secretName') == 'hub':
                    self.assertEqual(it['kind'], 'Job', place)

    def test_a_change_of_a_pool_restarts_that_pool_alone(self):
        def Checksums(**fields):
            pools = [{'name': 'a', 'model': 'facet-demo-e4b', 'replicas': 2, **fields},
                     {'name': 'b', 'model': 'facet-demo-e4b'}]
            render = helm.Render({'insecureNetwork': True, 'pools': pools})
            return {it['metadata']['name']: PodOf(it)[0]['annotations']['checksum/config']
                    for it in render.OfKind('Deployment', 'StatefulSet')}

        before = Checksums()
        for fields, changed in (({'config': {'running_max': 8}}, {'facet-router', 'facet-a'}),
                                ({'replicas': 3}, {'facet-router'})):
            after = Checksums(**fields)
            self.assertEqual({name for name in before if before[name] != after[name]}, changed)


    def test_a_promise_restarts_routers_alone(self):
        def Checksums(**fields):
            model = {'name': 'facet-demo-e4b', 'directory': '/m', **fields}
            render = helm.Render({'insecureNetwork': True, 'models': [model]})
            return Config(render), {
                it['metadata']['name']: PodOf(it)[0]['annotations']['checksum/config']
                for it in render.OfKind('Deployment', 'StatefulSet')}

        (_, before), (config, after) = Checksums(), Checksums(slo={'ttft_ms_max': 500})
        self.assertEqual(config['models'][0]['slo'], {'ttft_ms_max': 500})
        self.assertEqual({name for name in before if before[name] != after[name]}, {'facet-router'})

    def test_a_price_changes_one_file_and_no_pod(self):
        def Objects(usd):
            date = {'from': '2026-01-01T00:00:00Z', 'usd_per_hour': usd}
            render = helm.Render({'insecureNetwork': True,
                                  'prices': [{'device_class': 'cpu', 'dates': [date]}]})
            return {(it['kind'], it['metadata']['name']): it for it in render.objects}

        before, after = Objects('1'), Objects('2')
        self.assertEqual([key for key in before if before[key] != after[key]],
                         [('ConfigMap', 'facet-prices')])

    def test_files_that_the_config_names_are_mounted_where_they_are_used(self):
        """prices_file in workers as a whole directory, since single files never change; the ledger in
        routers and workers, writable."""
        for place, render, it, metadata, spec in self.Workloads('Deployment', 'StatefulSet'):
            config = Config(render)
            mounts = {mount['mountPath']: mount for container in spec['containers']
                      for mount in container['volumeMounts']}
            self.assertEqual('ledger_directory' in config, '/var/lib/facet/ledger' in mounts, place)
            if 'ledger_directory' in config:
                self.assertEqual(os.path.dirname(config['ledger_directory']), '/var/lib/facet/ledger')
                self.assertNotIn('readOnly', mounts['/var/lib/facet/ledger'], place)
            if it['kind'] == 'StatefulSet':
                self.assertEqual('prices_file' in config, '/etc/facet/prices' in mounts, place)
            if '/etc/facet/prices' in mounts:
                self.assertEqual(config['prices_file'], '/etc/facet/prices/prices.yaml')
                self.assertNotIn('subPath', mounts['/etc/facet/prices'])
                self.assertIn('prices.yaml', render.Find('ConfigMap', next(
                    volume['configMap']['name'] for volume in spec['volumes']
                    if volume['name'] == 'prices'))['data'])


class WordsTest(unittest.TestCase):

    def test_autoscalers_ask_for_metrics_of_the_contract(self):
        metrics = promql.contract()
        asked = [metric[kind]['metric'] for _, render in Renders()
                 for it in render.OfKind('HorizontalPodAutoscaler')
                 for metric in it['spec']['metrics'] for kind in [metric['type'].lower()]]
        self.assertEqual({it['name'] for it in asked},
                         {'facet_worker_sequences', 'facet_queue_requests'})
        for it in asked:
            labels = set(it['selector']['matchLabels']) - {'cluster'}  # The scrape's.
            self.assertLessEqual(labels, set(metrics[it['name']]['labels']), it)
        readme = (helm.CHART / 'README.md').read_text()
        for name in re.findall(r"seriesQuery: '(\w+)", readme):
            self.assertIn(name, {it['name'] for it in asked})

    def test_notes_warn_of_what_is_open_or_has_no_price(self):
        def Warnings(name):
            return [line.removeprefix('WARNING: ') for line in
                    helm.CiRenders()[name].notes.splitlines() if line.startswith('WARNING')]

        self.assertEqual([it.split(':')[0] for it in Warnings('demo')],
                         ['tenants.existingSecret is empty', 'workerTls.existingSecret is empty',
                          'networkPolicy.clientsFrom is empty',
                          'pool e4b has no config.price_usd_per_hour, and prices has no '
                          'device_class cpu'])
        self.assertEqual(Warnings('everything'),
                         ['the ranks of pool 26b exchange activations in plain text.',
                          'model gemma-4-26b is revision main, which can move; a commit cannot.'])
        self.assertIn('facet keys new --tenant NAME', helm.CiRenders()['everything'].notes)
        self.assertEqual([it for it in Warnings('two-pools') if 'price' in it], [])
        self.assertEqual([it.split(':')[0] for it in Warnings('small') if 'ledger' in it],
                         ['ledger.accessModes has no ReadWriteMany'])
        for name, render in Renders():
            self.assertEqual('-- facet usage --config=' in render.notes,
                             'ledger_directory' in Config(render), name)


class ConfigTest(unittest.TestCase):

    def test_the_programs_take_the_config_and_the_flags(self):
        for name, render in Renders():
            with tempfile.TemporaryDirectory(prefix='facet-helm-') as directory:
                path = pathlib.Path(directory, 'cluster.yaml')
                path.write_text(ConfigText(render))
                for it in render.OfKind('Deployment', 'StatefulSet'):
                    container = PodOf(it)[1]['containers'][0]
                    count = len(WorkersOf(render, it)) if it['kind'] == 'StatefulSet' else 1
                    for index in {0, count - 1}:
                        arguments = [argument.replace('/etc/facet/config/cluster.yaml', str(path))
                                     .replace('$(FACET_WORKER_INDEX)', str(index))
                                     .replace('$(FACET_ROUTER_NAME)', 'facet-router-6f9-x2b')
                                     for argument in container['args']]
                        done = subprocess.run(
                            [BIN / container['command'][0], *arguments, '--check-config'],
                            capture_output=True, text=True, timeout=20)
                        self.assertEqual((done.returncode, done.stderr), (0, ''), Place(name, it))

    def test_the_config_lists_every_pod_that_may_be(self):
        for name, render in Renders():
            for it in render.OfKind('StatefulSet'):
                scalers = [scaler for scaler in render.OfKind('HorizontalPodAutoscaler')
                           if scaler['metadata']['name'] == it['metadata']['name']]
                most = scalers[0]['spec']['maxReplicas'] if scalers else it['spec']['replicas']
                workers = WorkersOf(render, it)
                self.assertEqual(len(workers), most, Place(name, it))
                service = render.Find('Service', it['spec']['serviceName'])
                self.assertEqual(service['spec']['clusterIP'], 'None')
                self.assertIs(service['spec']['publishNotReadyAddresses'], True)
                for index, worker in enumerate(workers):
                    host = f'{it["metadata"]["name"]}-{index}.{service["metadata"]["name"]}.serving.svc.'
                    self.assertTrue(worker['grpc_address'].startswith(host), worker)


if __name__ == '__main__':
    unittest.main()
