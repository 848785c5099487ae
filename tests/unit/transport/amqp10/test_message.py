"""Messages: what we put together Proton takes apart as the same, and the reverse."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.transport.amqp10 import message
from greenmq.transport.amqp10.errors import Malformed
from tests.support.amqp10_proton import need_proton, proton

pytestmark = pytest.mark.once

QUICK = settings(max_examples=40, deadline=None)
names = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=20)
bodies = st.binary(max_size=600)
programs = st.dictionaries(
    names, st.one_of(st.text(max_size=300), st.integers(-(2 ** 63), 2 ** 63 - 1), st.booleans()), max_size=5)


@given(bodies, programs, names, st.integers(0, 9), st.integers(0, 2 ** 32 - 1))
@QUICK
def test_proton_reads_what_we_write(body, program, subject, priority, ttl):
    need_proton()
    data = message.write(
        body, {'durable': True, 'priority': priority, 'ttl': ttl},
        {'subject': subject, 'message_id': subject, 'content_type': 'text/plain'}, program)
    theirs = proton.Message()
    theirs.decode(data)
    assert bytes(theirs.body) == body
    assert theirs.durable and theirs.priority == priority and theirs.ttl * 1000 == pytest.approx(ttl)
    assert (theirs.subject, theirs.id, theirs.content_type) == (subject, subject, 'text/plain')
    assert (theirs.properties or {}) == program


@given(bodies, programs, names)
@QUICK
def test_we_read_what_proton_writes(body, program, subject):
    need_proton()
    theirs = proton.Message(body=body, properties=program or None, subject=subject, durable=True)
    theirs.inferred = True
    found = message.read(bytes(theirs.encode()))
    assert found.is_data and found.body == body
    assert found.header['durable'] is True and found.properties['subject'] == subject
    assert dict(found.program) == program


@pytest.mark.parametrize('body', ['text', {'a': [1, 2]}, 7, None])
def test_values_are_read_as_what_they_are(body):
    need_proton()
    found = message.read(proton.Message(body=body).encode())
    assert not found.is_data and found.body == body


def test_several_data_sections_are_one_body():
    part = b'\x00\x53\x75\xa0\x02'
    assert message.read(part + b'ab' + part + b'cd').body == b'abcd'


@pytest.mark.parametrize('data', [b'', b'\x40', b'\x00\x53\x99\x45', b'\x00\x53\x70\x40',
                                  b'\x00\x53\x75\xa0\x05ab', b'\x00\x53\x74\x45\x00\x53\x75\xa0\x00'])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(Malformed):
        message.read(data)


@given(st.booleans(), st.integers(0, 255), st.none() | st.integers(0, 2 ** 32 - 1), names, st.none() | names)
@QUICK
def test_what_recurs_is_written_and_read_as_anything_else(durable, priority, ttl, subject, kind):
    header, named = (durable, priority, ttl), (None, None, None, subject, None, None, kind)
    for _ in range(2):  # the second is remembered
        data = message.write_after(message.recurring_front(header, named), b'x')
        assert data == message.write(
            b'x', {'durable': durable, 'priority': priority, 'ttl': ttl},
            {'subject': subject, 'content_type': kind})
        found = message.read(data)
        assert (found.header['durable'], found.header['priority'], found.header.get('ttl')) == header
        assert (found.properties['subject'], found.properties.get('content_type')) == (subject, kind)
        with pytest.raises(TypeError):
            found.properties['subject'] = 'x'  # another message has it as well
    named = {'message_id': 'm', 'subject': subject}
    assert dict(message.read(message.write(b'x', {'priority': priority}, named)).properties) == named


def test_a_message_that_is_cut_in_a_section_is_refused():
    sections = [
        message.write_after(message.front((True, 3), (name, None, None, 'subject')), b'x', {'a': 1})
        for name in (None, 'name')]
    for whole in sections:
        read = []
        for cut in range(1, len(whole)):
            try:
                message.read(whole[:cut])
            except Malformed:
                continue
            read.append(cut)
        assert len(read) == 3, read  # after the header, the properties, the program's own
