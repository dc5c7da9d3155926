"""The chart's pods with everything that is secret (mutual TLS, a certificate for clients, tenants, a
group of ranks with a spare) and with a model from a hub; the chart's own tests run against them.
Budget: 40 s.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import helm
import pod_runner

sys.path.append(str(helm.ROOT / 'tests/unit/deploy'))
import fake_hub  # noqa: E402

MODELS = {'/usr/share/facet/models': str(helm.ROOT / 'deploy/demo/models')}
VALUES = {
    'workerTls': {'existingSecret': 'worker-tls', 'serverName': 'facet-worker'},
    'routerTls': {'existingSecret': 'router-tls'},
    'tenants': {'existingSecret': 'tenants'},
    'tests': {'apiKeySecret': 'test-key'},
    'models': [{'name': 'facet-demo-26b', 'directory': '/usr/share/facet/models/facet-demo-26b'},
               {'name': 'facet-demo-e4b', 'directory': '/usr/share/facet/models/facet-demo-e4b'}],
    'router': {'replicas': 1, 'http': {'enabled': False}, 'preStopSeconds': 0, 'drainSeconds': 5},
    'pools': [
        {'name': 'ep2', 'model': 'facet-demo-26b', 'drainSeconds': 5,
         'config': {'threads': 1, 'kv_bytes': 64 << 20},
         'expertGroup': {'ranks': 2, 'spares': 1, 'existingSecret': 'group'}},
        {'name': 'e4b', 'model': 'facet-demo-e4b', 'drainSeconds': 5,
         'config': {'threads': 1, 'kv_bytes': 64 << 20}}],
}


def Openssl(*arguments):
    subprocess.run(['openssl', *map(str, arguments)], check=True, capture_output=True, timeout=30)


def Certificate(directory, name, alternative):
    """Keys of a secret as cert-manager writes it, signed by the directory's CA."""
    ca, key, request, certificate = (directory / it for it in (
        'ca', f'{name}.key', f'{name}.csr', f'{name}.crt'))
    if not ca.with_suffix('.crt').exists():
        Openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
                '-keyout', ca.with_suffix('.key'), '-out', ca.with_suffix('.crt'), '-days', 2,
                '-subj', '/CN=test-ca')
    extensions = directory / f'{name}.ext'
    extensions.write_text(f'subjectAltName={alternative}\n')
    Openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout',
            key, '-out', request, '-subj', f'/CN={name}')
    Openssl('x509', '-req', '-in', request, '-CA', ca.with_suffix('.crt'), '-CAkey',
            ca.with_suffix('.key'), '-CAcreateserial', '-days', 2, '-extfile', extensions, '-out',
            certificate)
    return {'ca.crt': ca.with_suffix('.crt').read_text(), 'tls.crt': certificate.read_text(),
            'tls.key': key.read_text()}


def NewKey():
    """A tenant's key and a tenants file with it, as `facet keys new` prints them."""
    printed = subprocess.run([pod_runner.BIN / 'facet', 'keys', 'new', '--tenant', 'acme'],
                             capture_output=True, text=True, timeout=30, check=True).stdout
    key, = re.findall(r'^  (fk_\w+)$', printed, re.MULTILINE)
    line, = re.findall(r'^  (- \{.*\})$', printed, re.MULTILINE)
    return key, f'tenants:\n  {line}\n'


class PodsTest(unittest.TestCase):

    def test_a_secured_group_starts_and_the_charts_tests_tell_good_from_bad(self):
        directory = tempfile.TemporaryDirectory(prefix='facet-helm-')
        self.addCleanup(directory.cleanup)
        path = pathlib.Path(directory.name)
        key, tenants = NewKey()
        cluster = pod_runner.Cluster(image_files=MODELS, secrets={
            'worker-tls': Certificate(path, 'worker', 'DNS:facet-worker'),
            'group': {'group-key': 'x' * 32},
            'tenants': {'tenants.yaml': tenants},
            'test-key': {'api-key': key}})
        self.addCleanup(cluster.Close)
        render = helm.Render(VALUES)
        # The router's address is known when its pod is there: any of this network will do.
        names = ','.join(f'IP:{cluster._network}.{i}' for i in range(1, 40))
        cluster.secrets['router-tls'] = Certificate(path, 'router', names)
        cluster.Apply(render.objects)
        for name in ('health', 'generate'):
            code, log = cluster.Run(render.Find('Pod', f'facet-test-{name}'))
            self.assertEqual(code, 0, log)
        self.assertEqual([pod.restarts for pod in cluster.pods], [0] * len(cluster.pods))

        cluster.secrets['test-key'] = {'api-key': key[:-1] + ('0' if key[-1] != '0' else '1')}
        code, log = cluster.Run(render.Find('Pod', 'facet-test-generate'))
        self.assertNotEqual(code, 0)
        self.assertIn('key', log)

        for pod in list(cluster.pods):  # Nobody serves any more: health must say so.
            if pod.labels['app.kubernetes.io/component'] == 'worker':
                pod.Kill()
        pod_runner.WaitFor(lambda: cluster.Run(render.Find('Pod', 'facet-test-health'))[0] != 0,
                           'health fails without workers', 20)

    def test_pods_wait_until_the_job_has_the_model(self):
        model = helm.ROOT / 'deploy/demo/models/facet-demo-e4b'
        hub = fake_hub.Hub({path.name: path.read_bytes() for path in model.iterdir()}, 'hf_1')
        self.addCleanup(hub.server_close)
        self.addCleanup(hub.shutdown)
        hub.needs_token = True
        hub.break_after = [1_000_000]
        cluster = pod_runner.Cluster(secrets={'hub': {'token': 'hf_1'}}, entrypoints={
            'facet/downloader': [sys.executable, str(helm.ROOT / 'deploy/images/download_models.py')]})
        self.addCleanup(cluster.Close)
        render = helm.Render({
            'insecureNetwork': True,
            'models': [{'name': 'tiny', 'directory': 'tiny',
                        'hub': {'repository': 'google/tiny', 'revision': 'main'}}],
            'modelStorage': {'source': 'hub',
                             'download': {'endpoint': hub.endpoint(), 'tokenSecret': 'hub'}},
            'router': {'replicas': 1},
            'pools': [{'name': 'tiny', 'model': 'tiny', 'replicas': 1,
                       'config': {'threads': 1, 'kv_bytes': 64 << 20}}]})
        cluster.Apply(render.objects, wait=False)
        for pod in cluster.pods:
            pod_runner.WaitFor(lambda pod=pod: 'not complete in' in pod.LogEnd(),
                               f'{pod.name} waits for the model', 10)
        code, log = cluster.Run(render.Find('Job'))
        self.assertEqual(code, 0, log)
        cluster.AwaitReady(cluster.pods)
        code, log = cluster.Run(render.Find('Pod', 'facet-test-generate'))
        self.assertEqual(code, 0, log)
        self.assertEqual([pod.restarts for pod in cluster.pods], [0, 0])


if __name__ == '__main__':
    unittest.main()
