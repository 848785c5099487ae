"""Which queues there are: their URLs and attributes, and how they are made, counted, purged and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.SQS import predefined
from greenmq.transport.SQS.aws import AWS
from greenmq.transport.SQS.exceptions import DoesNotExistQueueException, ServiceError
from greenmq.transport.SQS.logins import Logins
from greenmq.transport.SQS.names import canonical, is_fifo

__all__ = ('Queues',)

logger = get_logger('greenmq.transport.SQS')

#: Seconds between two purges of a queue that the service allows.
BETWEEN_PURGES = 60.0


class Queues:
    """The queues that one driver knows.

    Arguments:
        settings (Mapping): of the driver. logins (Logins): who calls.
    """

    def __init__(self, settings: Mapping[str, Any], logins: Logins) -> None:
        self._settings = settings
        self._logins = logins
        self._predefined = predefined.checked(settings['predefined_queues'] or {})
        self._prefix: str = settings['queue_name_prefix'] or ''
        self._urls: dict[str, str] = {}  # canonical name → URL
        self._base = ''  # what URLs of queues begin with, learned from the first
        self._attributes: dict[str, dict[str, str]] = {}
        self._purged: dict[str, float] = {}

    # ---- calls

    def aws(self, queue: str = '') -> AWS:
        """Who calls SQS about a queue, or about none."""
        return self._logins.of_queue(self.facts(queue) if queue else None)

    def call(
        self, queue: str, operation: str, deadline: runtime.Deadline, again: bool = True,
        tries: int = 3, attempt: float = 10.0, **params: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Call SQS about a queue; one that is gone is forgotten. The rest as `AWS.call`.

        Raises:
            DoesNotExistQueueException: there is no such queue.
            UndefinedQueueException: queues are predefined, and it is none of them.
        Switches: yes.
        """
        url = self.url(queue, deadline)
        try:
            return self.aws(queue).call(
                'sqs', operation, deadline, again, tries, attempt, QueueUrl=url, **params
            )
        except DoesNotExistQueueException:
            self.forget(queue)
            raise

    # ---- which

    def facts(self, queue: str) -> Mapping[str, Any] | None:
        """What is said of a predefined queue; None if queues are not predefined.

        Raises:
            UndefinedQueueException: they are, and it is none of them.
        """
        return predefined.queue(self._predefined, queue)

    @property
    def predefined(self) -> bool:
        """Are the queues predefined?"""
        return bool(self._predefined)

    def name(self, queue: str) -> str:
        """What a queue is called at the service."""
        return canonical(queue, self._prefix)

    def any_name(self) -> str:
        """The name of a queue, there or not."""
        return next(iter(self._urls), None) or self.name('greenmq')

    def is_fifo(self, queue: str) -> bool:
        """Is it a FIFO queue?"""
        return is_fifo(queue)

    def known_url(self, queue: str) -> str:
        """The URL of a queue, '' if it was not looked for yet."""
        if self._predefined:
            return str(self._predefined.get(queue, {}).get('url', ''))
        return self._urls.get(self.name(queue), '')

    def url(self, queue: str, deadline: runtime.Deadline) -> str:
        """Return the URL of a queue. Raises as `call`. Switches: the first time."""
        facts = self.facts(queue)
        if facts is not None:
            return str(facts['url'])
        name = self.name(queue)
        url = self._urls.get(name)
        if url is None:
            url = str(self.aws().call('sqs', 'get_queue_url', deadline, QueueName=name)['QueueUrl'])
            self._learn(name, url)
        return url

    def _learn(self, name: str, url: str) -> None:
        self._urls[name] = url
        self._base = url.rpartition('/')[0] or self._base

    def forget(self, queue: str) -> None:
        """It is gone, or will be."""
        self._urls.pop(self.name(queue), None)
        self._attributes.pop(queue, None)

    # ---- attributes

    def look(self, queue: str, deadline: runtime.Deadline) -> dict[str, str]:
        """Ask for the attributes of a queue, and so whether it exists. One call, if the URL of any is known.

        Raises:
            DoesNotExistQueueException: it does not.
        """
        name = self.name(queue)
        if not self._predefined and name not in self._urls and self._base:
            url = f'{self._base}/{name}'
            found = self.aws().call(
                'sqs', 'get_queue_attributes', deadline, QueueUrl=url, AttributeNames=['All']
            )
            self._learn(name, url)
        else:
            found = self.call(queue, 'get_queue_attributes', deadline, AttributeNames=['All'])
        attributes: dict[str, str] = found.get('Attributes') or {}
        self._attributes[queue] = attributes
        return attributes

    def known(self, queue: str) -> dict[str, str] | None:
        """The attributes of a queue as they were seen last, None if they were not."""
        return self._attributes.get(queue)

    def attributes(self, queue: str, deadline: runtime.Deadline) -> dict[str, str]:
        """The attributes of a queue. Switches: the first time."""
        found = self._attributes.get(queue)
        return self.look(queue, deadline) if found is None else found

    # ---- what is done with them

    def make(self, queue: str, deadline: runtime.Deadline) -> int | None:
        """Make a queue if there is none; return how many messages wait in it. Switches: yes."""
        if self.facts(queue) is not None:
            return None
        try:
            return _size(self.look(queue, deadline))
        except DoesNotExistQueueException:
            return self._create(queue, deadline)

    def _create(self, queue: str, deadline: runtime.Deadline) -> int:
        name = self.name(queue)
        attributes = {'VisibilityTimeout': str(self._settings['visibility_timeout'])}
        if is_fifo(name):
            attributes['FifoQueue'] = 'true'
        attributes.update(
            (str(key), str(value)) for key, value in (self._settings['sqs-creation-attributes'] or {}).items()
        )
        params: dict[str, Any] = {'QueueName': name, 'Attributes': attributes}
        if self._settings['queue_tags']:
            params['tags'] = dict(self._settings['queue_tags'])
        while True:
            try:
                self._learn(name, self.aws().call('sqs', 'create_queue', deadline, **params)['QueueUrl'])
                return 0
            except ServiceError as error:
                if error.code in ('QueueNameExists', 'QueueAlreadyExists'):
                    # Somebody was faster, with other attributes: it is there.
                    return _size(self.look(queue, deadline))
                left = deadline.remaining()
                if error.code != 'QueueDeletedRecently' or (left is not None and left < 2.0):
                    raise
                runtime.sleep(1.0)  # a name is free again after 60 s

    def size(self, queue: str, deadline: runtime.Deadline) -> int | None:
        """How many messages wait in a queue, about; None if there is no such queue. Switches: yes."""
        try:
            return _size(self.look(queue, deadline))
        except DoesNotExistQueueException:
            return None

    def purge(self, queue: str, deadline: runtime.Deadline) -> bool:
        """Have the service empty a queue; False if it does so only once in a while. Switches: yes."""
        if runtime.monotonic() - self._purged.get(queue, float('-inf')) < BETWEEN_PURGES:
            return False
        try:
            self.call(queue, 'purge_queue', deadline)
        except ServiceError as error:
            if error.code != 'PurgeQueueInProgress':
                raise
            return False
        self._purged[queue] = runtime.monotonic()
        return True

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        """Delete a queue; none is fine. Switches: yes."""
        try:
            self.call(queue, 'delete_queue', deadline)
        except DoesNotExistQueueException:
            logger.debug('queue %r was gone already', queue)
        self.forget(queue)

    def listed(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        """All queues with our prefix, for people: it takes the right to list them. Switches: yes."""
        if self._predefined:
            return [{'name': name} for name in sorted(self._predefined)]
        params: dict[str, Any] = {'MaxResults': 1000}
        if self._prefix:
            params['QueueNamePrefix'] = canonical(self._prefix)
        found: list[dict[str, Any]] = []
        while True:
            answer = self.aws().call('sqs', 'list_queues', deadline, **params)
            for url in answer.get('QueueUrls') or ():
                name = url.rpartition('/')[2]
                self._learn(name, url)
                found.append({'name': name[len(params.get('QueueNamePrefix', '')) :]})
            if not answer.get('NextToken'):
                return found
            params['NextToken'] = answer['NextToken']


def _size(attributes: Mapping[str, str]) -> int:
    return int(attributes.get('ApproximateNumberOfMessages') or 0)
