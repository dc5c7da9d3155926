"""Runs the pods of rendered objects as processes on loopback, as a kubelet and controllers would.

Real: the containers' commands, arguments, environment and mounted files; their probes; the order of
preStop, SIGTERM, the grace period and SIGKILL; rolling updates of Deployments (surge first) and
StatefulSets (last pod first, one at a time); endpoints that a pod leaves ENDPOINT_LAG_SECONDS late;
ConfigMaps that change under running pods (a cluster takes a minute longer). Not real: images
(commands come from the build, files of the image from image_files), names (each pod has an address
127.x.y.z that stands where its name or 0.0.0.0 would; a pod of a StatefulSet keeps it), limits,
security contexts and network policies.
"""

import atexit
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1 import health_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get('FACET_BIN', ROOT / 'build/dev/bin'))
ENDPOINT_LAG_SECONDS = 5
START_SECONDS_MAX = 20


def WaitFor(predicate, what, seconds):
    end = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f'{what}: not within {seconds} s')
        time.sleep(0.02)


class Pod:
    """One pod with one container, and one that may have to end before, from its creation to its end."""

    def __init__(self, cluster, name, template, address, index=None):
        self.name = name
        self.address = address
        self.labels = dict(template['metadata']['labels'])
        if index is not None:
            self.labels['apps.kubernetes.io/pod-index'] = str(index)
        self.spec = template['spec']
        self.ready = False
        self.restarts = 0
        self.crashes = []  # Exit status and last words of each time.
        self.was_killed = False
        self.exit_code = None
        self.left_endpoints_at = None  # When it began to go, or stopped being ready.
        self._cluster = cluster
        self._container, = self.spec['containers']
        self._init = next(iter(self.spec.get('initContainers', [])), None)
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix=f'{name}-', dir=cluster.directory))
        self._paths = dict(cluster.image_files)
        self._terminating = threading.Event()
        self._MountVolumes()
        self._Start(self._init or self._container)
        self._watcher = threading.Thread(target=self._Watch, daemon=True)
        self._watcher.start()

    def _MountVolumes(self):
        volumes = {it['name']: it for it in self.spec.get('volumes', [])}
        mounts = {it['mountPath']: volumes[it['name']]
                  for it in self._container.get('volumeMounts', [])}
        for path, volume in mounts.items():
            if 'persistentVolumeClaim' in volume:
                self._paths[path] = str(self._cluster.Claim(
                    volume['persistentVolumeClaim']['claimName']))
            elif 'emptyDir' not in volume:  # /dev/shm is there.
                self._paths[path] = str(self._directory / path.lstrip('/'))
        self._mounts = mounts
        self.WriteMounts()

    def WriteMounts(self):
        """The files of ConfigMaps and secrets as they are now, each replaced as a whole."""
        for path, volume in self._mounts.items():
            if 'configMap' in volume:
                config_map = self._cluster.config_maps[volume['configMap']['name']]
                files = {name: self._Local(text) for name, text in config_map.items()}
            elif 'secret' in volume:
                secret = self._cluster.secrets[volume['secret']['secretName']]
                files = {it['path']: secret[it['key']] for it in volume['secret']['items']}
            else:
                continue
            directory = pathlib.Path(self._paths[path])
            directory.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                fresh = directory / f'.{name}.new'
                fresh.write_text(text)
                fresh.replace(directory / name)

    def _Local(self, text):
        """The text with paths and addresses of this machine."""
        for inside, outside in self._paths.items():
            text = re.sub(rf'(?<![\w/.-]){re.escape(inside)}(?=[/\s"\']|$)', outside, text)
        return self._cluster.Resolved(text).replace('0.0.0.0', self.address)

    def _Environment(self, container):
        environment = {}
        for it in container.get('env', []):
            source = it.get('valueFrom', {})
            if 'secretKeyRef' in source:
                ref = source['secretKeyRef']
                environment[it['name']] = self._cluster.secrets[ref['name']][ref['key']]
            elif 'fieldRef' in source:
                field = source['fieldRef']['fieldPath']
                label = re.fullmatch(r"metadata\.labels\['(.*)'\]", field)
                environment[it['name']] = self.labels[label[1]] if label else {
                    'metadata.name': self.name}[field]
            else:
                environment[it['name']] = self._Local(it['value'])
        return environment

    def _Command(self, words):
        """Of the words that a pod's author wrote; the first is a program of ours."""
        environment = self._Environment(self._container)
        expanded = [re.sub(r'\$\((\w+)\)', lambda found: environment[found[1]], word)
                    for word in words]
        program, *arguments = map(self._Local, expanded)
        return [str(BIN / program), *arguments]

    def _CommandOf(self, container):
        if 'command' in container:
            return self._Command(container['command'] + container.get('args', []))
        repository = container['image'].rpartition(':')[0]
        return [*self._cluster.entrypoints[repository], *map(self._Local, container['args'])]

    def _Start(self, container):
        self.log = self._directory / 'log'
        with open(self.log, 'ab') as log:
            # The kernel ends the process if this one dies without saying goodbye.
            self._process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', *self._CommandOf(container)], stdout=log, stderr=log,
                env={'PATH': os.environ['PATH'], **self._Environment(container)})

    def _AwaitInit(self):
        """Starts the container once the one before has ended well."""
        while not self._terminating.wait(0.05):
            code = self._process.poll()
            if code == 0:
                self._Start(self._container)
                return
            if code is not None:
                self.restarts += 1
                self._Start(self._init)

    def _Watch(self):
        """The kubelet's loop: startup, then readiness and liveness; starts again what ends."""
        if self._init:
            self._AwaitInit()
        started, failures, due = False, {}, {}
        while not self._terminating.is_set():
            if self._process.poll() is not None:
                if self.spec.get('restartPolicy', 'Always') != 'Always':
                    return
                self.restarts += 1
                self.crashes.append((self._process.returncode, self.LogEnd()))
                self._SetReady(False)
                started, failures, due = False, {}, {}
                self._Start(self._container)
            now = time.monotonic()
            for kind in ('livenessProbe', 'readinessProbe') if started else ('startupProbe',):
                probe = self._container.get(kind)
                if probe is None:
                    started = True
                    continue
                if now < due.get(kind, 0):
                    continue
                due[kind] = now + min(probe['periodSeconds'], 1 if not self.ready else 60)
                well = self._Probe(probe)
                failures[kind] = 0 if well else failures.get(kind, 0) + 1
                over = failures[kind] >= probe['failureThreshold']
                if kind == 'startupProbe' and well:
                    started = True
                elif kind == 'readinessProbe' and (well or over):
                    self._SetReady(well)
                elif over:
                    self._process.kill()  # A failed liveness or startup: the container starts again.
                    self._process.wait()
            self._terminating.wait(0.05)

    def _Probe(self, probe):
        timeout = probe['timeoutSeconds']
        if 'exec' in probe:
            try:
                return subprocess.run(self._Command(probe['exec']['command']), timeout=timeout,
                                      capture_output=True).returncode == 0
            except subprocess.TimeoutExpired:
                return False
        if 'grpc' in probe:
            with grpc.insecure_channel(f'{self.address}:{probe["grpc"]["port"]}',
                                       [('grpc.use_local_subchannel_pool', 1)]) as channel:
                try:
                    answer = health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(), timeout=timeout)
                except grpc.RpcError:
                    return False
                return answer.status == health_pb2.HealthCheckResponse.SERVING
        get = probe['httpGet']
        port = next(it['containerPort'] for it in self._container['ports']
                    if it['name'] == get['port'])
        try:
            urllib.request.urlopen(f'http://{self.address}:{port}{get["path"]}',
                                   timeout=timeout).close()
        except OSError:
            return False
        return True

    def _SetReady(self, ready):
        if self._terminating.is_set():
            return
        if self.ready and not ready:
            self.left_endpoints_at = time.monotonic()
        elif ready:
            self.left_endpoints_at = None
        self.ready = ready

    def in_endpoints(self):
        """Whether clients see it: until some time after it has left."""
        if self.left_endpoints_at is not None:
            return time.monotonic() < self.left_endpoints_at + ENDPOINT_LAG_SECONDS
        return self.ready

    def Delete(self):
        """Begins the end and returns at once; AwaitEnd waits for it."""
        self.left_endpoints_at = time.monotonic()
        self._terminating.set()
        self._ending = threading.Thread(target=self._End, daemon=True)
        self._ending.start()

    def _End(self):
        grace_ends = time.monotonic() + self.spec['terminationGracePeriodSeconds']
        sleep = self._container.get('lifecycle', {}).get('preStop', {}).get('sleep')
        if sleep:
            time.sleep(sleep['seconds'])
        self._watcher.join()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(max(0, grace_ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.was_killed = True
            self._process.kill()
        self.exit_code = self._process.wait()

    def AwaitEnd(self):
        self._ending.join(self.spec['terminationGracePeriodSeconds'] + 5)

    def Exec(self, words):
        """What `kubectl exec` of these words prints."""
        return subprocess.run(self._Command(words), capture_output=True, text=True, timeout=20,
                              check=True).stdout

    def LogEnd(self):
        return '\n'.join(self.log.read_text(errors='replace').splitlines()[-12:])

    def Complete(self, seconds):
        """Of a pod that is to end by itself: its exit status."""
        self.exit_code = self._process.wait(seconds)
        return self.exit_code

    def Kill(self):
        self._terminating.set()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Cluster:
    """Pods of the applied objects. secrets: name → key → text. image_files: path in images → here.
    entrypoints: repository of an image → words, for containers without a command.
    """

    def __init__(self, secrets=None, image_files=None, entrypoints=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix='facet-pods-'))
        atexit.register(self.Close)
        self.secrets = secrets or {}
        self.image_files = image_files or {}
        self.entrypoints = entrypoints or {}
        self.config_maps = {}
        self.pods = []      # Those that are not on their way out.
        self.gone = []      # Those that are, or have ended.
        self._objects = {}  # (kind, name) → object.
        self._names = {}    # Of pods of StatefulSets → address.
        self._network = f'127.{random.randrange(1, 250)}.{random.randrange(250)}'
        self._num_addresses = 0

    def _NewAddress(self):
        self._num_addresses += 1
        return f'{self._network}.{self._num_addresses}'

    def _AddressOf(self, pod_name):
        if pod_name not in self._names:
            self._names[pod_name] = self._NewAddress()
        return self._names[pod_name]

    def Claim(self, name):
        """The directory that stands for a volume claim."""
        directory = self.directory / 'claims' / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def Resolved(self, text):
        """The text with addresses instead of names of pods and services."""
        text = re.sub(r'\b([a-z0-9-]+-\d+)\.[a-z0-9-]+\.[a-z0-9-]+\.svc\.[a-z0-9.]+[a-z]',
                      lambda found: self._AddressOf(found[1]), text)
        return re.sub(r'\b([a-z0-9-]+)\.[a-z0-9-]+\.svc\b',
                      lambda found: self.Endpoints(found[1])[0], text)

    def Apply(self, objects, wait=True):
        """Brings the pods to what the objects say and returns when all are ready: at first at once,
        later by rolling updates. Jobs are left to Run. wait: for pods that are new.
        """
        changed = []
        for it in objects:
            key = (it['kind'], it['metadata']['name'])
            if it['kind'] == 'ConfigMap':
                self.config_maps[key[1]] = it['data']
            elif it['kind'] in ('Deployment', 'StatefulSet'):
                if self._objects.get(key) != it:
                    changed.append((it, key in self._objects))
            self._objects[key] = it
        for pod in self.pods:
            pod.WriteMounts()
        for it, exists in changed:
            if not exists:
                for index in range(it['spec']['replicas']):
                    self.Create(it, index)
            elif it['kind'] == 'Deployment':
                self._RollDeployment(it)
            else:
                self._RollStatefulSet(it)
        if wait:
            self.AwaitReady(self.pods)

    def AwaitReady(self, pods):
        for pod in pods:
            try:
                WaitFor(lambda pod=pod: pod.ready, f'{pod.name} is ready', START_SECONDS_MAX)
            except AssertionError as error:
                raise AssertionError(f'{error}; its log ends with\n{pod.LogEnd()}') from None

    def Create(self, owner, index=None):
        name = owner['metadata']['name']
        if owner['kind'] == 'StatefulSet':
            pod = Pod(self, f'{name}-{index}', owner['spec']['template'],
                      self._AddressOf(f'{name}-{index}'), index)
        else:
            pod = Pod(self, f'{name}-{random.randbytes(3).hex()}', owner['spec']['template'],
                      self._NewAddress())
        pod.owner = name
        self.pods.append(pod)
        return pod

    def Delete(self, pod):
        self.pods.remove(pod)
        self.gone.append(pod)
        pod.Delete()

    def PodsOf(self, owner):
        return [pod for pod in self.pods if pod.owner == owner]

    def _RollDeployment(self, it):
        """With maxUnavailable 0 and maxSurge 1: a new pod is ready before an old one goes."""
        assert it['spec']['strategy']['rollingUpdate'] == {'maxUnavailable': 0, 'maxSurge': 1}
        for old in self.PodsOf(it['metadata']['name']):
            self.AwaitReady([self.Create(it)])
            self.Delete(old)

    def _RollStatefulSet(self, it):
        for old in reversed(self.PodsOf(it['metadata']['name'])):
            self.Delete(old)
            old.AwaitEnd()
            self.AwaitReady([self.Create(it, int(old.labels['apps.kubernetes.io/pod-index']))])

    def Endpoints(self, service_name):
        """Addresses of the pods that clients of the service see now."""
        selector = self._objects['Service', service_name]['spec']['selector']
        return [pod.address for pod in [*self.pods, *self.gone] if pod.in_endpoints()
                and all(pod.labels.get(key) == value for key, value in selector.items())]

    def Run(self, it, seconds=60):
        """Runs a pod that ends by itself, a hook's or a job's; returns exit status and log."""
        template = it['spec']['template'] if it['kind'] == 'Job' else it
        pod = Pod(self, it['metadata']['name'], template, self._NewAddress())
        try:
            return pod.Complete(seconds), pod.log.read_text(errors='replace')
        finally:
            pod.Kill()

    def AwaitGone(self):
        """Until every deleted pod has ended, and clients know."""
        for pod in self.gone:
            pod.AwaitEnd()
            WaitFor(lambda pod=pod: not pod.in_endpoints(), f'{pod.name} has left its service',
                    ENDPOINT_LAG_SECONDS + 1)

    def Close(self):
        for pod in [*self.pods, *self.gone]:
            pod.Kill()
        shutil.rmtree(self.directory, ignore_errors=True)
