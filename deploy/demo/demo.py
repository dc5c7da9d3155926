"""The demo: a local cluster, two conversations over gRPC, and what they cost.

Run: deploy/demo/run_demo.sh BIN_DIR. Everything is done by the `facet` program, as a user would: `up`,
`status`, `chat` and `generate`. Exits non-zero, with the reason, if any of it fails.
"""

import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

CONFIG = pathlib.Path(__file__).resolve().parent / 'cluster.yaml'
WAIT_SECONDS = 60
STOP_SECONDS_MAX = 30

CONVERSATIONS = {
    'facet-demo-e4b': ('My name is Emma.', 'What is the capital of France?', 'What is my name?'),
    'facet-demo-26b': ('Who are you?', 'What is the capital of Italy?', 'And of Japan?'),
}
LONG_PROMPT = 'Tell me a story.'


class DemoError(Exception):
    pass


def Paint(code, text):
    return f'\033[{code}m{text}\033[0m' if sys.stdout.isatty() else text


def Say(text=''):
    print(text, flush=True)


def CheckPorts():
    """Every port of the cluster must be free; says which is not."""
    for port in sorted({int(it) for it in re.findall(r'127\.0\.0\.1:(\d+)', CONFIG.read_text())}):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('127.0.0.1', port))
            except OSError:
                raise DemoError(f'port {port} of {CONFIG.name} is in use on this machine; stop what '
                                'listens there (another demo or `facet up`?) and try again')


class Demo:

    def __init__(self, bin_dir, log_path):
        self._facet = str(pathlib.Path(bin_dir).resolve() / 'facet')
        self.log_path = log_path
        self._up = None

    def Start(self):
        CheckPorts()
        Say(f'Starting the cluster of {CONFIG.name}; its log is {self.log_path}')
        # A group of its own: Ctrl-C reaches this script, which then stops the cluster in order.
        self._up = subprocess.Popen([self._facet, 'up', '--config', str(CONFIG)],
                                    stdin=subprocess.DEVNULL, stdout=open(self.log_path, 'ab'),
                                    stderr=subprocess.STDOUT, start_new_session=True)
        ready = subprocess.Popen([self._facet, 'status', '--wait', str(WAIT_SECONDS)],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while True:
            try:
                _, error = ready.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                if self._up.poll() is None:
                    continue
                ready.kill()
                raise DemoError(f'the cluster did not start: {self._LastLine()}')
            if ready.returncode != 0:
                raise DemoError(error.strip())
            return

    def _LastLine(self):
        lines = pathlib.Path(self.log_path).read_text(errors='replace').strip().splitlines()
        return lines[-1] if lines else 'it said nothing'

    def Stop(self):
        if self._up is None:
            return
        if self._up.poll() is None:
            self._up.send_signal(signal.SIGTERM)
        try:
            code = self._up.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._up.kill()
            raise DemoError(f'the cluster did not stop within {STOP_SECONDS_MAX} s')
        if code != 0:
            raise DemoError(f'the cluster ended with status {code}: {self._LastLine()}')

    def Converse(self, model, turns):
        """One `facet chat`: a line in is a turn, its answer streams to our stdout."""
        Say()
        Say(Paint('1', f'{model}') + Paint('2', f'   facet chat --model {model} --temperature 0'))
        chat = subprocess.Popen([self._facet, 'chat', '--model', model, '--temperature', '0'],
                                stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        try:
            for turn in turns:
                Say(Paint('36', f'> {turn}'))
                chat.stdin.write(turn + '\n')
                # The line of figures follows the answer; an error ends the program instead.
                figures = chat.stderr.readline().strip()
                if not figures.startswith('TTFT'):
                    raise DemoError(figures or f'facet chat ended without an answer of {model}')
                Say(Paint('2', f'  {figures}'))
            chat.stdin.close()
            if chat.wait(10) != 0:
                raise DemoError(f'facet chat: {chat.stderr.read().strip()}')
        finally:
            if chat.poll() is None:
                chat.kill()
                chat.wait()

    def Measure(self, model):
        """One longer answer; returns a row of the summary."""
        done = subprocess.run([self._facet, 'generate', '--model', model, '--prompt', LONG_PROMPT,
                               '--temperature', '0', '--max-tokens', '200', '--json'],
                              capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise DemoError(done.stderr.strip())
        answer = json.loads(done.stdout)
        usage, timing = answer['usage'], answer['timing']
        tokens = usage['completion_tokens']
        speed = 1000 / timing['tpot_ms'] if timing['tpot_ms'] > 0 else 0
        return (model, f'{timing["ttft_ms"]:.1f} ms', f'{speed:.0f}',
                f'{usage["prompt_tokens"]} + {tokens}', f'${usage["cost_usd"]:.9f}',
                f'${usage["cost_usd"] / tokens * 1e6:.3f}')

    def Summary(self):
        Say()
        Say(Paint('1', f'"{LONG_PROMPT}"') + Paint('2', '   facet generate --json'))
        rows = [('model', 'TTFT', 'tokens/s', 'tokens', 'cost', 'per million')]
        rows += [self.Measure(model) for model in CONVERSATIONS]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for number, row in enumerate(rows):
            cells = [row[0].ljust(widths[0])] + [
                cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
            Say(Paint('2' if number == 0 else '0', '  ' + '   '.join(cells)))

    def Status(self):
        Say()
        Say(Paint('1', 'Cluster') + Paint('2', '   facet status'))
        if subprocess.run([self._facet, 'status'], timeout=30).returncode != 0:
            raise DemoError('facet status says that not every worker is ready')


def Run(bin_dir):
    log_dir = tempfile.mkdtemp(prefix='facet-demo-')
    demo = Demo(bin_dir, f'{log_dir}/cluster.log')
    try:
        try:
            demo.Start()
            for model, turns in CONVERSATIONS.items():
                demo.Converse(model, turns)
            demo.Summary()
            demo.Status()
        finally:
            demo.Stop()
    except DemoError as error:
        print(f'demo: {error}', file=sys.stderr)
        if pathlib.Path(demo.log_path).exists():
            print(f'demo: the log of the cluster is {demo.log_path}', file=sys.stderr)
        else:
            shutil.rmtree(log_dir)
        return 1
    except KeyboardInterrupt:
        return 130
    shutil.rmtree(log_dir)
    Say()
    Say('Done, the cluster is stopped. `make up` starts it again; then try `facet chat`.')
    return 0


if __name__ == '__main__':
    sys.exit(Run(sys.argv[1]))
