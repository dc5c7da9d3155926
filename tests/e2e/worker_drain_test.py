"""A worker that ends answers what was on its way: a submit that a router sent before it heard of the
drain is refused, and the last tokens arrive. Budget: 20 s.
"""

import itertools
import pathlib
import queue
import signal
import tempfile
import unittest

import grpc
from google.protobuf import descriptor_pool
from google.protobuf import message_factory
from grpc_reflection.v1alpha import proto_reflection_descriptor_database

import cluster

SERVICE = 'facet.worker.v1.WorkerService'


class Session:
    """One router's stream with a worker, by reflection."""

    def __init__(self, port):
        self._channel = grpc.insecure_channel(f'127.0.0.1:{port}')
        self._pool = descriptor_pool.DescriptorPool(
            proto_reflection_descriptor_database.ProtoReflectionDescriptorDatabase(self._channel))
        method = self._pool.FindServiceByName(SERVICE).FindMethodByName('Session')
        self._message = message_factory.GetMessageClass(method.input_type)
        self._outgoing = queue.Queue()
        self.incoming = self._channel.stream_stream(
            f'/{SERVICE}/Session',
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString)(
                iter(self._outgoing.get, None), timeout=30)
        self.Send(hello={'router_id': 'test'})

    def Send(self, **fields):
        self._outgoing.put(self._message(**fields))

    def Submit(self, request_id, new_tokens):
        self.Send(submit={'request_id': request_id, 'epoch': 1, 'prompt_ids': [2, 7, 7],
                          'sampling': {'top_p': 1}, 'new_tokens_max': new_tokens,
                          'new_tokens_min': new_tokens})

    def Until(self, wanted):
        """Reads on and returns the first message for which wanted is true."""
        return next(message for message in self.incoming if wanted(message))

    def Close(self):
        self._outgoing.put(None)
        self._channel.close()


class WorkerDrainTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix='facet-e2e-')
        self.addCleanup(directory.cleanup)
        config = pathlib.Path(directory.name, 'cluster.yaml')
        config.write_text(f'models: [{{name: m, directory: {cluster.MODELS / cluster.E4B}}}]\n'
                          'pools: [{name: p, model: m, threads: 1, kv_bytes: 67108864,\n'
                          '         workers: [{grpc_address: "127.0.0.1:0"}]}]\n')
        self.worker = cluster.Worker(config, 'p', 0, 0, 0)
        self.worker.process.WaitForEvent('worker ready')
        self.session = Session(self.worker.grpc_port)
        self.addCleanup(self.session.Close)
        self.session.Until(lambda message: message.heartbeat.ready)

    def test_a_submit_after_the_drain_began_is_refused(self):
        self.worker.process.Signal(signal.SIGTERM)
        self.session.Until(lambda message: message.heartbeat.draining)
        self.session.Submit('late', 4)
        refused = self.session.Until(lambda message: message.HasField('refused')).refused
        self.assertEqual((refused.request_id, refused.code),
                         ('late', grpc.StatusCode.UNAVAILABLE.value[0]))
        self.assertEqual(self.worker.process.Wait(), 0)

    def test_the_last_tokens_arrive(self):
        self.session.Submit('long', 200)
        self.session.Until(lambda message: message.step.deltas)
        self.worker.process.Signal(signal.SIGTERM)
        tokens = (len(delta.token_ids) for message in itertools.chain(self.session.incoming)
                  for delta in message.step.deltas)
        total = 0
        try:
            for count in tokens:
                total += count
        except grpc.RpcError as error:
            self.assertEqual(error.details(), 'the worker ends')
        self.assertGreaterEqual(total, 198)  # All but those that were read before the signal.
        self.assertEqual(self.worker.process.Wait(), 0)


if __name__ == '__main__':
    unittest.main()
