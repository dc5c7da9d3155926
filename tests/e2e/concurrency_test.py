"""Sixty-four streaming clients on two workers: each stream is complete and equals its solo run.

Budget: 15 s of load in `make test`, FACET_E2E_SECONDS otherwise; 15 s around it.
"""

import os
import random
import threading
import time
import unittest

import cluster
import reflected

CLIENTS = 64
CHANNELS = 8
LOAD_SECONDS = float(os.environ.get('FACET_E2E_SECONDS', 15))
STREAM_SECONDS_MAX = 60
SEED = 20260711

TOPICS = ('What is the capital of France?', 'Count from one to five.', 'Tell me a story.',
          'Recite a poem.', 'What is 7 plus 5?', 'What is the opposite of hot?',
          'My name is Ada. What is my name?', 'Which month comes after May?')


def Requests(client):
    """Different lengths, greedy and sampled: the requests that every client draws from."""
    requests = []
    for i, topic in enumerate(TOPICS):
        filler = 'I like green tea and long walks by the sea. ' * (i * 5)
        for sampling in ({'temperature': 0},
                         {'temperature': 1.2, 'top_k': 40, 'seed': 1000 + i},
                         {'temperature': 0.8, 'top_p': 0.9, 'seed': 2000 + i,
                          'repetition_penalty': 1.1}):
            requests.append(client.ChatRequest(cluster.E4B, filler + topic, sampling=sampling,
                                               limits={'new_tokens_max': 8 + 6 * i}))
    return requests


class ConcurrencyTest(unittest.TestCase):

    def test_each_of_64_streams_equals_its_solo_run(self):
        servers = cluster.Cluster({cluster.E4B: 2})
        requests = Requests(servers.client)
        solo = [reflected.Answer(servers.client.Chat(request, timeout=STREAM_SECONDS_MAX)).Said()
                for request in requests]
        clients = [servers.NewClient() for _ in range(CHANNELS)]
        failures, workers, counts = [], set(), [0] * CLIENTS
        end = time.monotonic() + LOAD_SECONDS

        def Run(number):
            draw = random.Random(SEED + number)
            client = clients[number % CHANNELS]
            while time.monotonic() < end and not failures:
                i = draw.randrange(len(requests))
                try:
                    answer = reflected.Answer(
                        client.Chat(requests[i], timeout=STREAM_SECONDS_MAX))
                    if answer.Said() != solo[i]:
                        failures.append(f'request {i}: {answer.Said()} but alone {solo[i]}')
                    workers.add(answer.accepted.worker)
                    counts[number] += 1
                except Exception as error:  # Any end but the right one is a failure.
                    failures.append(f'request {i}: {error!r}')

        threads = [threading.Thread(target=Run, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f'{sum(counts)} streams in {LOAD_SECONDS:.0f} s, each client {min(counts)} to '
              f'{max(counts)}, seed {SEED}')
        self.assertEqual(failures, [])
        self.assertEqual(workers, {'e4b/0', 'e4b/1'})
        self.assertGreaterEqual(min(counts), 1, 'a client was starved')
        for client in clients:
            client.Close()
        for worker in servers.workers:
            cluster.WaitFor(lambda: cluster.KvUsed(worker) == 0, f'{worker.name} frees its KV')
        self.assertEqual(servers.Stop(), [0, 0, 0])


if __name__ == '__main__':
    unittest.main()
