"""Renders the chart with the real Helm 4 and no cluster: Render().

Helm's library has no call that only renders, and an install first asks the cluster what it serves. A
small API server on loopback answers that and takes whatever is made. So values, schema, kubeVersion,
Capabilities and the text of errors are Helm's own.
"""

import asyncio
import base64
import functools
import gzip
import http.server
import json
import pathlib
import re
import sys
import tempfile
import threading

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / 'helm/facet'
sys.path.append(str(ROOT / 'build/helm'))

import helm_sdkpy  # noqa: E402

KUBERNETES = 'v1.36.0'
KINDS = {  # By group and version. A kind with * has no namespace; what follows = is its plural.
    'v1': 'Pod Service ConfigMap Secret ServiceAccount PersistentVolumeClaim Namespace*',
    'apps/v1': 'Deployment StatefulSet',
    'batch/v1': 'Job',
    'policy/v1': 'PodDisruptionBudget',
    'autoscaling/v2': 'HorizontalPodAutoscaler',
    'networking.k8s.io/v1': 'NetworkPolicy=networkpolicies',
}
OPERATOR = {'monitoring.coreos.com/v1': 'ServiceMonitor PodMonitor PrometheusRule'}


class RenderError(Exception):
    """What Helm says."""


class _Api(http.server.BaseHTTPRequestHandler):
    """As much of a Kubernetes API server as an install asks for."""

    def log_message(self, *_):
        pass

    def _Say(self, answer, code=200):
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        kinds = self.server.kinds
        path = self.path.split('?')[0]
        group = path.removeprefix('/apis/').removeprefix('/api/')
        if path == '/version':
            self._Say({'major': '1', 'minor': self.server.kubernetes.split('.')[1],
                       'gitVersion': self.server.kubernetes})
        elif path == '/api':
            self._Say({'kind': 'APIVersions', 'versions': ['v1']})
        elif path == '/apis':
            groups = []
            for name in kinds:
                if '/' in name:
                    version = {'groupVersion': name, 'version': name.split('/')[1]}
                    groups.append({'name': name.split('/')[0], 'versions': [version],
                                   'preferredVersion': version})
            self._Say({'kind': 'APIGroupList', 'groups': groups})
        elif group in kinds:
            self._Say({'kind': 'APIResourceList', 'groupVersion': group,
                       'resources': [_Resource(kind) for kind in kinds[group].split()]})
        elif path.endswith('/secrets'):
            self._Say({'kind': 'SecretList', 'apiVersion': 'v1', 'metadata': {}, 'items': []})
        else:
            self._Say({'kind': 'Status', 'apiVersion': 'v1', 'status': 'Failure',
                       'reason': 'NotFound', 'code': 404}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        if body[:1] == b'{':
            self._Say(json.loads(body), 201)
            return
        self.server.releases.append(body)  # Helm's record of the release, a Secret in protobuf.
        self._Say({'kind': 'Secret', 'apiVersion': 'v1', 'metadata': {'name': 'release'}}, 201)

    do_PUT = do_PATCH = do_POST


def _Resource(kind):
    name, _, plural = kind.rstrip('*').partition('=')
    return {'name': plural or name.lower() + 's', 'kind': name, 'namespaced': '*' not in kind,
            'verbs': ['create', 'get', 'list', 'patch', 'update', 'delete']}


def _Release(record):
    """The release in Helm's record: base64 of gzip of JSON, twice base64 in a Secret's data."""
    encoded = max(re.findall(rb'H4sI[A-Za-z0-9+/=]{100,}', record), key=len)
    return json.loads(gzip.decompress(base64.b64decode(encoded)))


class Rendered:
    """objects and hooks: dictionaries as Kubernetes would get them; notes: the text."""

    def __init__(self, release):
        self.objects = [it for it in yaml.safe_load_all(release['manifest']) if it]
        self.hooks = [it for hook in release.get('hooks') or []
                      for it in yaml.safe_load_all(hook['manifest']) if it]
        self.notes = release['info']['notes']

    def all(self):
        return self.objects + self.hooks

    def Find(self, kind, name=None):
        """The only object of the kind, or the one with the name."""
        found, = [it for it in self.all()
                  if it['kind'] == kind and name in (None, it['metadata']['name'])]
        return found

    def OfKind(self, *kinds):
        return [it for it in self.all() if it['kind'] in kinds]


def Render(values=None, release='facet', namespace='serving', kubernetes=KUBERNETES, operator=False):
    """Raises RenderError with Helm's text. operator: the cluster has Prometheus's CRDs."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Api)
    server.daemon_threads = True
    server.kubernetes = kubernetes
    server.kinds = {**KINDS, **(OPERATOR if operator else {})}
    server.releases = []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with tempfile.NamedTemporaryFile('w', suffix='.json') as kubeconfig:
        json.dump({
            'apiVersion': 'v1', 'kind': 'Config', 'current-context': 'x',
            'clusters': [{'name': 'x',
                          'cluster': {'server': f'http://127.0.0.1:{server.server_port}'}}],
            'users': [{'name': 'x', 'user': {}}],
            'contexts': [{'name': 'x', 'context': {'cluster': 'x', 'user': 'x',
                                                   'namespace': namespace}}]}, kubeconfig)
        kubeconfig.flush()
        try:
            asyncio.run(helm_sdkpy.Install(helm_sdkpy.Configuration(
                namespace=namespace, kubeconfig=kubeconfig.name)).run(
                    release, str(CHART), values=values or {}, wait=False, timeout=20))
        except helm_sdkpy.InstallError as error:
            raise RenderError(str(error)) from None
        finally:
            server.shutdown()
            server.server_close()
    return Rendered(_Release(server.releases[-1]))


def Problems():
    """Helm lint's errors; their texts are lost in the binding."""
    result = asyncio.run(helm_sdkpy.Lint(helm_sdkpy.Configuration(kubeconfig='/nonexistent')).run(
        str(CHART)))
    return [it for it in result['Messages'] if it['Severity'] >= 3]


def CiValues():
    """Name → values of ci/."""
    return {path.name.removesuffix('-values.yaml'): yaml.safe_load(path.read_text())
            for path in sorted((CHART / 'ci').glob('*-values.yaml'))}


@functools.cache
def CiRenders():
    """Name → what the chart gives for the values of ci/."""
    return {name: Render(values, operator=True) for name, values in CiValues().items()}
