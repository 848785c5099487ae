"""Calls of Amazon's services: botocore signs and parses, our HTTP asks.

botocore keeps what it is good at: configuration, credentials, endpoints, signatures, the shapes of all
operations. Whatever of it reads files or asks the network by itself runs in a native thread: the making of a
client, the look-up and the refreshing of credentials. A call is then prepared in the caller's greenlet, and
botocore's event `before-send` hands the exchange over.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any, NamedTuple

import botocore

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, OperationalError, TimeoutError
from greenmq.log import get_logger
from greenmq.transport import http
from greenmq.transport.SQS.exceptions import (
    AccessDeniedQueueException,
    DoesNotExistQueueException,
    ServiceError,
    Throttled,
)
from greenmq.transport.SQS.hot import Answer, Hot, is_hot, read

__all__ = ('AWS', 'Keys', 'Login')

logger = get_logger('greenmq.transport.SQS')

#: Seconds before the end of credentials in which they are refreshed in the background; and in which a call
#: waits for that.
REFRESH_EARLY, REFRESH_LATE = 300, 2
#: Tries of a call whose server can't be reached or gives no answer.
TRIES = 3
#: Seconds that one try may take where the deadline is longer: a server that is silent is asked again.
ATTEMPT = 10.0
#: Clients that a process keeps: making one costs 40 ms.
KEPT = 64

_THROTTLED = frozenset((
    'Throttling', 'ThrottlingException', 'ThrottledException', 'RequestThrottled',
    'RequestThrottledException', 'RequestLimitExceeded', 'TooManyRequestsException', 'OverLimit',
    'SlowDown', 'KmsThrottled',
))  # fmt: skip
_EXPIRED = frozenset(('ExpiredToken', 'ExpiredTokenException', 'RequestExpired'))
_DENIED = frozenset((
    'AccessDenied', 'AccessDeniedException', 'AuthorizationError', 'AuthFailure', 'InvalidClientTokenId',
    'UnrecognizedClientException', 'SignatureDoesNotMatch', 'InvalidSignatureException', 'InvalidSecurity',
    'MissingAuthenticationToken', 'MissingAuthenticationTokenException', 'OptInRequired',
    'InvalidAccessKeyId', 'KmsAccessDenied', 'IncompleteSignature',
))  # fmt: skip
#: Of these a connection learns at once: no call would succeed.
STRANGERS = _DENIED - {'AccessDenied', 'AccessDeniedException', 'AuthorizationError', 'KmsAccessDenied'}
_MISSING = frozenset(('NonExistentQueue', 'QueueDoesNotExist', 'NotFound', 'NotFoundException'))


class Login(NamedTuple):
    """As whom to call. Without a key: as botocore's chain says (environment, files, the machine's role)."""

    key: str | None = None
    secret: str | None = None
    token: str | None = None

    @property
    def mark(self) -> str:
        """What tells logins apart without showing them."""
        return hashlib.sha256(repr(tuple(self)).encode()).hexdigest()


class Keys:
    """The credentials of one login: fetched in a thread, fresh while calls are made, fetched once at a time.

    Arguments:
        login (Login): whose.
        assume (Callable | None): `assume(deadline)` gives the answer of AssumeRole, for a role's keys.
        early (float): seconds before their end in which a role's keys are renewed, beyond the usual.
    Attributes:
        signing: botocore's Credentials that the clients sign with; filled in by `ready`.
    """

    def __init__(
        self, login: Login, assume: Callable[[runtime.Deadline], Any] | None = None, early: float = 0.0
    ) -> None:
        self.login = login
        self.signing: Any = None
        self._assume = assume
        self._early = early
        self._source: Any = None
        self._until: datetime | None = None
        self._once = runtime.Once((AccessDeniedQueueException,))
        self._refreshing: Any = None

    def load_credentials(self) -> Any:
        """Return the object that clients sign with; botocore asks for it. In a thread: imports botocore."""
        from botocore.credentials import Credentials

        if self.signing is None:
            login = self.login if self.fixed else Login()
            self.signing = Credentials(login.key or '', login.secret or '', login.token)
        return self.signing

    @property
    def fixed(self) -> bool:
        """Are they the ones of the login, and never others?"""
        return self._assume is None and bool(self.login.key)

    def ready(self, deadline: runtime.Deadline) -> None:
        """Have credentials that are good for a call now.

        Raises:
            AccessDeniedQueueException: there are none. TimeoutError: not in time.
        Switches: if they must be waited for.
        """
        if self.fixed:
            return
        left = self._left()
        if left < REFRESH_LATE:
            self.renew(deadline)
        elif left < REFRESH_EARLY + self._early and (self._refreshing is None or self._refreshing.done):
            self._refreshing = runtime.spawn(_renew_early, self, name='greenmq-credentials')

    def _left(self) -> float:
        # Seconds that they are good for.
        if not self.signing or not self.signing.access_key:
            return 0.0
        if self._until is not None:
            return (self._until - datetime.now(timezone.utc)).total_seconds()
        needed = getattr(self._source, 'refresh_needed', None)
        if needed is None:
            return float('inf')
        if needed(REFRESH_LATE):
            return 0.0
        return REFRESH_LATE if needed(REFRESH_EARLY) else float('inf')

    def renew(self, deadline: runtime.Deadline, forget: bool = False) -> bool:
        """Fetch credentials, once for all who ask; False if there is no way to get others.

        Arguments:
            forget (bool): the service says that they have expired: look for others from the beginning.
        Switches: yes.
        """
        if self.fixed:
            return False
        self._once.do('renew', lambda: self._renew(deadline, forget), 'no credentials', deadline)
        return True

    def _renew(self, deadline: runtime.Deadline, forget: bool) -> None:
        if self._assume is not None:
            found = self._assume(deadline)['Credentials']
            self._until = found['Expiration']
            key, secret, token = found['AccessKeyId'], found['SecretAccessKey'], found['SessionToken']
        else:
            source = None if forget else self._source
            self._source, frozen = runtime.offload(_look_up, source, deadline=deadline)
            if frozen is None:
                raise AccessDeniedQueueException('no AWS credentials: not in the URL, nor where boto looks')
            key, secret, token = frozen
        signing = self.signing  # no switch between these three
        signing.access_key, signing.secret_key, signing.token = key, secret, token


def _renew_early(keys: Keys) -> None:
    try:
        keys.renew(runtime.Deadline.after(REFRESH_EARLY / 2))
    except Exception as error:  # those that we have are still good; a call tries again
        logger.warning('the AWS credentials could not be refreshed yet: %s', error)


def _look_up(source: Any) -> tuple[Any, Any]:
    # In a thread: reads files, and may ask the network for seconds.
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        if source is None:
            source = botocore.session.Session().get_credentials()
        return source, None if source is None else tuple(source.get_frozen_credentials())[:3]
    except BotoCoreError as error:
        raise AccessDeniedQueueException(f'no AWS credentials: {error}') from error


class _Exchange(NamedTuple):
    """How the call that this greenlet makes reaches its server."""

    client: http.Client
    deadline: runtime.Deadline
    repeatable: bool


_exchange: ContextVar[_Exchange] = ContextVar('greenmq-sqs-exchange')
_clients: dict[Any, Any] = {}


class _Raw:
    """An answer's body, as botocore reads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **kwargs: Any) -> Iterator[bytes]:
        yield self._body

    def read(self, *args: Any) -> bytes:
        body, self._body = self._body, b''
        return body


def _send(request: Any, **kwargs: Any) -> Any:
    """The handler of `before-send`."""
    from botocore.awsrequest import AWSResponse

    how = _exchange.get()
    body = request.body or b''
    headers = {
        name: value.decode('latin-1') if isinstance(value, bytes) else str(value)
        for name, value in request.headers.items()
    }
    answer = how.client.request(
        request.method, request.url, headers,
        body if isinstance(body, bytes) else str(body).encode(), how.deadline, how.repeatable,
    )  # fmt: skip
    return AWSResponse(request.url, answer.status, answer.headers, _Raw(answer.body))


@functools.cache
def _parser(protocol: str) -> Any:
    from botocore.parsers import create_parser

    return create_parser(protocol)


class _Parsers:
    """What reads answers, kept: botocore makes one for each error, which only the collector could free.

    Source: botocore.parsers.ResponseParserFactory.
    """

    create_parser = staticmethod(_parser)


def _make(
    service: str, region: str | None, endpoint: str | None, config: Mapping[str, Any], keys: Keys
) -> Any:  # fmt: skip
    # In a thread: reads tens of files.
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session()
    session.register_component('credential_provider', keys)
    session.register_component('response_parser_factory', _Parsers())
    settings = Config(
        **{
            'retries': {'total_max_attempts': 1, 'mode': 'standard'},
            'parameter_validation': False,
            **config,
        }
    )
    try:
        client = session.create_client(
            service, region_name=region or session.get_config_variable('region') or 'us-east-1',
            endpoint_url=endpoint, config=settings,
        )  # fmt: skip
    except BotoCoreError as error:
        raise OperationalError(f'no client for {service}: {error}') from error
    client.meta.events.register_first(f'before-send.{service}', _send)
    return client


class AWS:
    """Calls of one login in one region.

    Arguments:
        client (http.Client): our HTTP.
        keys (Keys): as whom.
        region (str | None): None for what botocore's configuration says.
        endpoints (Mapping[str, str | None]): service → URL, None for Amazon's own.
        config (Mapping): arguments of botocore's Config.
        paces (dict): endpoint → how fast it may be asked, shared by all who ask it.
    Attributes:
        calls (int), throttles (int): made and refused.
    """

    def __init__(
        self, client: http.Client, keys: Keys, region: str | None, endpoints: Mapping[str, str | None],
        config: Mapping[str, Any], paces: dict[str, http.Pace],
    ) -> None:  # fmt: skip
        self.calls = 0
        self.throttles = 0
        self.keys = keys
        self._http = client
        self._region = region
        self._endpoints = endpoints
        self._config = dict(config)
        self._paces = paces
        self._made: dict[str, Any] = {}
        self._hot: Hot | None = None
        self._making = runtime.Once()

    def client(self, service: str, deadline: runtime.Deadline) -> Any:
        """Return botocore's client of a service, made in a thread if it is not there yet. Switches: then."""
        made = self._made.get(service)
        if made is None:
            made, _ = self._making.do(
                service, lambda: self._make(service, deadline), f'no client for {service}', deadline
            )
        return made

    def _make(self, service: str, deadline: runtime.Deadline) -> Any:
        endpoint = self._endpoints.get(service)
        key = (service, self._region, endpoint, repr(sorted(self._config.items())), runtime.fork_epoch(),
               self.keys.login.mark)  # fmt: skip
        # Keys that are refreshed are ours alone, and so are the clients that sign with them.
        made = _clients.get(key) if self.keys.fixed else None
        if made is None:
            made = runtime.offload(
                _make, service, self._region, endpoint, self._config, self.keys, deadline=deadline
            )
            if self.keys.fixed:
                _clients[key] = made
                while len(_clients) > KEPT:
                    del _clients[next(iter(_clients))]
        self._made[service] = made
        return made

    def call(
        self, service: str, operation: str, deadline: runtime.Deadline, repeatable: bool = True,
        tries: int = TRIES, attempt: float = ATTEMPT, **params: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Make a call, again and again within its deadline while that may help.

        Arguments:
            service (str), operation (str): "sqs", "send_message_batch": botocore's names.
            repeatable (bool): it does no harm if it is done twice. Others are not made again once they may
                have arrived.
            tries (int): how often, where there is no answer; 1 is also for where the server fails.
            attempt (float): seconds for one try.
        Raises:
            http.NoAnswer, http.NoAnswerInTime, runtime.DialError: the last try; `sent` tells whether any of
                them may have arrived.
            DoesNotExistQueueException, AccessDeniedQueueException, Throttled, ServiceError: refused.
        Switches: yes. Killed: the exchange ends, and its connection.
        """
        client = self.client(service, deadline)
        pace = self._paces.setdefault(client.meta.endpoint_url, http.Pace())
        tried = failed = 0
        sent, renewed = 'no', False
        while True:
            delay = pace.delay()
            if delay:
                runtime.sleep(min(delay, _left(deadline)))
            self.keys.ready(deadline)
            deadline.check(f'{operation}: no answer')
            try:
                # What the program tells botocore, of proxies and certificates, is for botocore to heed.
                if not self._config and is_hot(service, operation, params):
                    return self._hot_once(client, operation, params, deadline.within(attempt), repeatable)
                return self._once(client, operation, params, deadline.within(attempt), repeatable)
            except _Refused as refused:
                code = refused.code
                if code in _THROTTLED or (refused.status == 429):
                    pace.throttled()
                    self.throttles += 1
                elif code in _EXPIRED and not renewed:
                    renewed = True
                    if not self.keys.renew(deadline, forget=True):
                        raise refused.translated(operation) from refused.__cause__
                    continue
                elif refused.status >= 500:
                    failed += 1
                else:
                    raise refused.translated(operation) from refused.__cause__
                pause = max(http.pause_before(max(failed, 1) + 1), refused.pause)
                if (failed and tries == 1) or pause >= _left(deadline):
                    raise refused.translated(operation) from refused.__cause__
            except (ConnectionLost, TimeoutError) as error:
                tried += 1
                mine = getattr(error, 'sent', 'no' if isinstance(error, runtime.DialError) else 'unknown')
                sent = 'unknown' if 'unknown' in (mine, sent) else 'no'
                error.sent = sent  # type: ignore[union-attr]
                pause = http.pause_before(tried + 1)
                again = repeatable or sent == 'no'
                if not again or tried >= tries or pause >= _left(deadline):
                    raise
            runtime.sleep(pause)

    def _hot_once(
        self, client: Any, operation: str, params: dict[str, Any], deadline: runtime.Deadline,
        repeatable: bool,
    ) -> dict[str, Any]:  # fmt: skip
        self.calls += 1
        hot = self._hot
        if hot is None:
            hot = self._hot = Hot(client.meta.endpoint_url, client.meta.region_name)
        headers, body = hot.request(operation, params, self.keys.load_credentials())
        answer = self._http.request('POST', hot.url, headers, body, deadline, repeatable)
        try:
            found = read(answer.status, answer.headers, answer.body)
        except ValueError as error:
            if answer.status >= 300:
                found = Answer(False, {'ResponseMetadata': {'HTTPStatusCode': answer.status}})
            else:
                text = f'{operation} was answered by what is no answer: {error}'
                raise http.NoAnswer(text, begun=True) from error
        if not found.good:
            raise _Refused(found.value)
        return found.value

    def _once(
        self, client: Any, operation: str, params: dict[str, Any], deadline: runtime.Deadline,
        repeatable: bool,
    ) -> dict[str, Any]:  # fmt: skip
        self.calls += 1
        token = _exchange.set(_Exchange(self._http, deadline, repeatable))
        try:
            return getattr(client, operation)(**params)  # type: ignore[no-any-return]
        except botocore.exceptions.ClientError as error:
            raise _Refused(error.response) from error
        except botocore.parsers.ResponseParserError as error:
            text = f'{operation} was answered by what is no answer: {error}'
            raise http.NoAnswer(text, begun=True) from error
        except botocore.exceptions.BotoCoreError as error:
            raise OperationalError(f'{operation}: {error}') from error
        finally:
            _exchange.reset(token)


def _left(deadline: runtime.Deadline) -> float:
    left = deadline.remaining()
    return float('inf') if left is None else left


class _Refused(Exception):
    """The service answered that it will not."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        error, meta = response.get('Error') or {}, response.get('ResponseMetadata') or {}
        super().__init__(str(error.get('Message') or error.get('Code')))
        # Two spellings: the name of the JSON protocol, and that of the older one before it.
        self.code = _short(error.get('Code'))
        self.query_code = _short(error.get('QueryErrorCode'))
        if self.query_code in _THROTTLED:
            self.code = self.query_code
        self.status = int(meta.get('HTTPStatusCode') or 0)
        self.pause = http.retry_after(meta.get('HTTPHeaders') or {}) or 0.0

    def translated(self, operation: str) -> Exception:
        """What to raise to the caller."""
        return refusal(self.code, f'{operation}: {self} ({self.code})', self.status)


def _short(code: Any) -> str:
    return str(code or '').rpartition('#')[2].rpartition('.')[2]


def refusal(code: str, text: str, status: int = 400) -> Exception:
    """Return the error for the service's name of it."""
    if code in _MISSING:
        return DoesNotExistQueueException(f'NOT_FOUND - {text}', (50, 10), 'SQS', 404)
    if code in _DENIED or code in _EXPIRED:
        found = AccessDeniedQueueException(f'ACCESS_REFUSED - {text}', None, 'SQS', 403)
        found.aws_code = code
        return found
    if code in _THROTTLED:
        return Throttled(text, code, status)
    return ServiceError(text, code, status)
