"""A client of facet.v1.InferenceService that knows nothing but what the server's reflection tells.

No generated file is involved, as with any client that was not built here.
"""

import functools

import grpc
from google.protobuf import descriptor_pool
from google.protobuf import message_factory
from grpc_reflection.v1alpha import proto_reflection_descriptor_database

SERVICE = 'facet.v1.InferenceService'


class Client:
    """Calls the methods of the service by name.

    `client.Chat(message, timeout=...)` gives what a generated stub gives: an iterator for streaming
    methods, a message for the others; api_key goes with each. `client.New('ChatRequest', ...)` makes a message.
    """

    def __init__(self, address, options=(), api_key=None, ca_file=None):
        options = [('grpc.use_local_subchannel_pool', 1), *options]
        if ca_file:
            credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)
        database = proto_reflection_descriptor_database.ProtoReflectionDescriptorDatabase(
            self.channel)
        self.service_names = database.get_services()
        self._pool = descriptor_pool.DescriptorPool(database)
        self._calls = {}
        for method in self._pool.FindServiceByName(SERVICE).methods:
            make = self.channel.unary_stream if method.server_streaming else (
                self.channel.unary_unary)
            call = make(
                f'/{SERVICE}/{method.name}',
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=message_factory.GetMessageClass(
                    method.output_type).FromString)
            if api_key:
                call = functools.partial(call, metadata=[('authorization', f'Bearer {api_key}')])
            self._calls[method.name] = call

    def __getattr__(self, name):
        if name.startswith('_') or name not in self._calls:
            raise AttributeError(name)
        return self._calls[name]

    def New(self, name, **fields):
        """Makes a message of package facet.v1; fields as its constructor takes them."""
        return message_factory.GetMessageClass(
            self._pool.FindMessageTypeByName(f'facet.v1.{name}'))(**fields)

    def EnumName(self, enum, value):
        return self._pool.FindEnumTypeByName(f'facet.v1.{enum}').values_by_number[value].name

    def Close(self):
        self.channel.close()

    def ChatRequest(self, model, text, **fields):
        """One user turn."""
        return self.New('ChatRequest', model=model, messages=[{'role': 'user', 'content': text}],
                        **fields)


class Answer:
    """A whole stream, checked while it is read: one Accepted, positions without a gap, one Finished.

    With on_event, it is called after each event; what it raises ends the reading.
    """

    def __init__(self, stream, on_event=None):
        self.accepted = None
        self.finished = None
        self.text = ''
        self.thought = ''
        self.tool_calls = []
        self.token_ids = []
        for event in stream:
            self._Take(event)
            if on_event is not None:
                on_event(self)
        assert self.finished is not None, 'the stream ended well without Finished'
        usage = self.finished.usage
        assert usage.prompt_tokens == self.accepted.prompt_tokens, usage
        assert usage.completion_tokens == len(self.token_ids), (usage, self.token_ids)

    def _Take(self, event):
        kind = event.WhichOneof('event')
        assert (self.accepted is None) == (kind == 'accepted'), f'{kind} at the wrong place'
        assert self.finished is None, f'{kind} after Finished'
        if kind == 'accepted':
            self.accepted = event.accepted
        elif kind in ('text', 'thought'):
            delta = getattr(event, kind)
            if delta.token_ids:
                assert delta.first_position == len(self.token_ids), (
                    f'{kind} starts at {delta.first_position}, not {len(self.token_ids)}')
            self.token_ids += delta.token_ids
            setattr(self, kind, getattr(self, kind) + delta.text)
        elif kind == 'tool_call':
            self.tool_calls.append(event.tool_call)
        else:
            assert kind == 'finished', kind
            self.finished = event.finished
            self.token_ids += event.finished.token_ids

    def Said(self):
        """What two runs of one request must have in common: everything but ids and times."""
        return {'text': self.text, 'thought': self.thought, 'token_ids': self.token_ids,
                'tools': [(call.name, call.arguments_json) for call in self.tool_calls],
                'reason': self.finished.reason,
                'prompt_tokens': self.finished.usage.prompt_tokens}
