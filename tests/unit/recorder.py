"""A channel that writes down what is called on it: the seam between messaging and any transport."""

#: What messaging asks of a channel and this one does not have.
ABSENT = (
    'basic_publish_nowait', 'create_publish_batch', 'delivery', 'events', 'held', 'is_stale',
    'max_decoded_bytes', 'message_to_python', 'supports_batch_publish',
)  # fmt: skip


class Client:
    """What a channel knows of its Connection."""

    connection_errors = (OSError,)
    channel_errors = (KeyError,)
    epoch = 1

    def __init__(self):
        self.declared_entities = set()
        self.transport_options = {}


class Recorder:
    """Every method can be called; `calls` holds (name, args, kwargs) of each."""

    no_ack_consumers = None
    channel_id = 7

    def __init__(self):
        self.calls = []
        self.connection = type('Link', (), {})()
        self.connection.client = Client()
        self.answers = {'queue_declare': ('made-up', 3, 2), 'basic_get': None}

    def __getattr__(self, name):
        if name.startswith('_') or name in ABSENT:
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            if name == 'prepare_queue_arguments':
                return {**args[0], **{key: value for key, value in kwargs.items() if value is not None}}
            return self.answers.get(name, f'result of {name}')

        return call

    def names(self):
        """The methods in the order of their calls."""
        return [name for name, _, _ in self.calls]

    def of(self, name):
        """The keyword arguments of the calls of one method."""
        return [kwargs for each, _, kwargs in self.calls if each == name]
