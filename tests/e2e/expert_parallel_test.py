"""Ranks that share the experts of one model: the same tokens as one process, and what happens when
a rank is killed, stops or cannot be reached. Budget: 120 s.
"""

import concurrent.futures
import json
import os
import signal
import subprocess
import time
import unittest

import grpc

import cluster
import reflected

PROMPTS = 200
CLIENTS = 16
FOUND_SECONDS_MAX = 1.0
FORMED_SECONDS_MAX = 10.0  # The bar is 5 s, and a spare takes 3.5 s; more is for a busy machine.
LONG_TOKENS = 1500


def Questions():
    with open(cluster.ROOT / 'deploy/demo/eval.jsonl', encoding='utf-8') as lines:
        return [json.loads(line)['messages'][-1]['content'] for line in lines]


def Requests(client):
    """200 chat turns: every question greedily and with three seeds."""
    questions = Questions()
    requests = []
    for number in range(PROMPTS):
        sampling = {'temperature': 0} if number % 4 == 0 else {'temperature': 1.0, 'seed': number}
        requests.append(client.ChatRequest(cluster.A4B, questions[number // 4 % len(questions)],
                                           sampling=sampling, limits={'new_tokens_max': 24}))
    return requests


def AnswersOf(servers):
    """What each request got and which worker gave it; sent by many clients at once."""
    def Ask(request):
        answer = reflected.Answer(servers.client.Chat(request, timeout=120))
        return answer.Said(), answer.accepted.worker
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(Ask, Requests(servers.client)))
    return [said for said, _ in answers], [worker for _, worker in answers]


class SameTokensTest(unittest.TestCase):

    def test_ranks_answer_as_one_process_does(self):
        alone = cluster.Cluster({cluster.A4B: 1})
        wanted, _ = AnswersOf(alone)
        self.assertEqual(alone.Stop(), [0, 0])
        self.assertEqual(len(wanted), PROMPTS)
        for ranks in (2, 4):
            with self.subTest(ranks=ranks):
                group = cluster.Cluster({cluster.A4B: ranks}, ranks=ranks)
                got, workers = AnswersOf(group)
                self.assertEqual([number for number in range(PROMPTS)
                                  if got[number] != wanted[number]], [])
                for index in range(ranks):
                    self.assertGreater(workers.count(f'26b/{index}'), PROMPTS // ranks // 4)
                models = {worker.process.WaitForEvent('step model fitted')['step_model']
                          for worker in group.workers}
                self.assertEqual(len(models), 1, 'ranks weigh rows alike')
                status = group.WorkerStatus(0)
                self.assertEqual((status.group, status.num_ranks), ('26b', ranks))
                self.assertEqual(list(status.expert_choices), [], 'withheld in low traffic')
                metrics = cluster.Scrape(group.workers[0].metrics_port)
                self.assertNotIn('facet_expert_choices_total', metrics)
                self.assertEqual(group.Stop(), [0] * (ranks + 1))


class GroupCase(unittest.TestCase):
    """What the fault rows share: a long answer on each rank, and how the group ends and forms."""

    servers = None
    client = None

    def LongAnswers(self):
        """Calls under way, at least one on each rank; [(rank, future of (code, details))]."""
        request = self.client.New(
            'GenerateRequest', model=cluster.A4B, text='Once upon a time',
            sampling={'temperature': 0}, limits={'new_tokens_max': LONG_TOKENS, 'ignore_eos': True})
        pool = concurrent.futures.ThreadPoolExecutor(8)
        self.addCleanup(pool.shutdown)
        seen = []

        def Read(slot):
            def Note(answer):
                if answer.accepted and len(answer.token_ids) > 2:
                    slot['worker'] = answer.accepted.worker
            try:
                reflected.Answer(self.client.Generate(request, timeout=60), Note)
                return slot.setdefault('end', ('OK', ''))
            except grpc.RpcError as error:
                slot['ended'] = time.monotonic()
                return slot.setdefault('end', (error.code().name, error.details()))

        for _ in range(4):
            slot = {}
            seen.append((slot, pool.submit(Read, slot)))
        def BothRanks():
            return {slot.get('worker') for slot, _ in seen} >= {'26b/0', '26b/1'}
        try:
            cluster.WaitFor(BothRanks, 'answers come from both ranks', 20)
        except AssertionError as error:
            raise AssertionError(f'{error}: {[slot for slot, _ in seen]} '
                                 f'{self.servers.WorkerStatus(0)} {self.servers.WorkerStatus(1)}')
        return seen

    def AssertLost(self, answers, since):
        """Each answer ends with UNAVAILABLE and a reason, in time."""
        for slot, future in answers:
            code, details = future.result(30)
            self.assertEqual(code, 'UNAVAILABLE', details)
            self.assertIn('was lost', details)
            self.assertLess(slot['ended'] - since, FOUND_SECONDS_MAX + 0.5, details)

    def AssertForms(self, since, epoch):
        self.servers.WaitReady(2)
        self.assertLess(time.monotonic() - since, FORMED_SECONDS_MAX)
        self.assertIn('Paris', self.servers.Ask().text)
        self.assertGreater(max(self.servers.WorkerStatus(i).group_epoch for i in (0, 1)), epoch)


class RankFaultTest(GroupCase):

    @classmethod
    def setUpClass(cls):
        cls.servers = cluster.Cluster({cluster.A4B: 2}, ranks=2,
                                      router={'queue_wait_ms_max': 1500})
        cls.client = cls.servers.client

    @classmethod
    def tearDownClass(cls):
        codes = cls.servers.Stop()
        assert codes == [0, 0, 0], codes

    def setUp(self):
        self.servers.WaitReady(2)
        self.epoch = self.servers.WorkerStatus(0).group_epoch

    def test_a_killed_rank_ends_the_epoch_and_the_group_forms_with_the_next(self):
        for index in (1, 0):
            with self.subTest(rank=index):
                epoch = self.servers.WorkerStatus(0).group_epoch
                answers = self.LongAnswers()
                since = time.monotonic()
                self.servers.workers[index].process.Kill()
                self.AssertLost(answers, since)
                code, details = cluster.CodeOf(self.servers.Ask)
                self.assertEqual(code, 'UNAVAILABLE', details)
                since = time.monotonic()
                self.servers.RestartWorker(index)
                self.AssertForms(since, epoch)

    def test_a_stopped_rank_is_found_and_comes_back(self):
        answers = self.LongAnswers()
        since = time.monotonic()
        self.servers.workers[1].process.Signal(signal.SIGSTOP)
        self.AssertLost(answers, since)
        since = time.monotonic()
        self.servers.workers[1].process.Signal(signal.SIGCONT)
        self.AssertForms(since, self.epoch)

    def test_a_rank_told_to_end_drains_the_whole_group(self):
        answers = self.LongAnswers()
        self.servers.workers[1].process.Signal(signal.SIGTERM)
        cluster.WaitFor(lambda: self.servers.WorkerState(0) == 'WORKER_STATE_DRAINING',
                        'the other rank drains, too')
        code, details = cluster.CodeOf(self.servers.Ask)
        self.assertEqual(code, 'UNAVAILABLE', details)
        self.assertEqual([future.result(60) for _, future in answers], [('OK', '')] * len(answers))
        for worker in self.servers.workers:
            self.assertEqual(worker.process.Wait(), 0)
        for index in (0, 1):
            self.servers.RestartWorker(index)

    def test_an_idle_group_costs_next_to_nothing(self):
        def CpuSeconds():
            ticks = 0
            for worker in self.servers.workers:
                with open(f'/proc/{worker.process.pid()}/stat', encoding='ascii') as stat:
                    ticks += sum(map(int, stat.read().rsplit(')', 1)[1].split()[11:13]))
            return ticks / os.sysconf('SC_CLK_TCK')
        self.servers.Ask()
        time.sleep(0.5)  # Whatever the answer left behind.
        before = CpuSeconds()
        time.sleep(3)
        self.assertLess((CpuSeconds() - before) / 3 / 2, 0.10, 'of a core, each rank')


class SpareTest(GroupCase):

    def test_a_spare_takes_a_killed_ranks_place(self):
        self.servers = cluster.Cluster({cluster.A4B: 3}, ranks=2,
                                       router={'queue_wait_ms_max': 1500})
        self.client = self.servers.client
        self.assertEqual(self.servers.WorkerState(2), 'WORKER_STATE_SPARE')
        epoch = self.servers.WorkerStatus(0).group_epoch
        answers = self.LongAnswers()
        since = time.monotonic()
        self.servers.workers[1].process.Kill()
        self.AssertLost(answers, since)
        self.AssertForms(since, epoch)
        status = self.servers.WorkerStatus(2)
        self.assertEqual((status.rank, status.num_ranks), (1, 2))
        # The place is taken: who comes back stands by.
        self.servers.RestartWorker(1)
        cluster.WaitFor(lambda: self.servers.WorkerState(1) == 'WORKER_STATE_SPARE',
                        'the old rank stands by', 10)
        self.assertIn('Paris', self.servers.Ask().text)
        self.assertEqual(self.servers.Stop()[0], 0)


def Ip(*words):
    subprocess.run(['ip', *words], check=True, capture_output=True, timeout=10)


class CutLinkTest(GroupCase):
    """Rank 1 lives behind a link of its own, which goes down and comes up again."""

    NETWORK = '10.231.77'

    def setUp(self):
        self.namespace = f'facet-{os.getpid()}'
        self.link = f'fa{os.getpid() % 1_000_000}'
        try:
            Ip('netns', 'add', self.namespace)
        except (OSError, subprocess.CalledProcessError) as error:
            self.skipTest(f'no network namespace can be made here: {error}')
        self.addCleanup(Ip, 'netns', 'delete', self.namespace)
        Ip('link', 'add', self.link, 'type', 'veth', 'peer', 'name', 'far', 'netns', self.namespace)
        self.addCleanup(Ip, 'link', 'delete', self.link)
        Ip('address', 'add', f'{self.NETWORK}.1/24', 'dev', self.link)
        Ip('link', 'set', self.link, 'up')
        for device in ('lo', 'far'):
            Ip('-n', self.namespace, 'link', 'set', device, 'up')
        Ip('-n', self.namespace, 'address', 'add', f'{self.NETWORK}.2/24', 'dev', 'far')

    def test_a_cut_link_is_found_and_the_group_forms_when_it_heals(self):
        self.servers = cluster.Cluster(
            {cluster.A4B: 2}, ranks=2, router={'queue_wait_ms_max': 1500},
            fields={'insecure_network': 'true'},
            hosts={0: (f'{self.NETWORK}.1', None), 1: (f'{self.NETWORK}.2', self.namespace)})
        self.client = self.servers.client
        epoch = self.servers.WorkerStatus(0).group_epoch
        answers = self.LongAnswers()
        since = time.monotonic()
        Ip('link', 'set', self.link, 'down')
        self.AssertLost(answers, since)
        # The far rank has found by itself that it is alone.
        self.servers.workers[1].process.WaitForEvent('group not formed', 2)
        Ip('link', 'set', self.link, 'up')
        self.AssertForms(time.monotonic(), epoch)
        self.assertEqual(self.servers.Stop(), [0, 0, 0])


if __name__ == '__main__':
    unittest.main()
