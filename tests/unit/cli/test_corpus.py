"""What the demo reads: lines of text files, and nothing that is no text."""

import os
from collections import Counter

import pytest

from greenmq.cli import corpus


def test_words_are_letters_of_any_script_in_lower_case():
    assert corpus.words("Hello, héllo_wörld! don't 3x ПРИВЕТ") == [
        'hello', 'héllo', 'wörld', 'don', 't', 'x', 'привет']


def test_a_file_and_a_folder(tmp_path):
    # Given texts on two levels, and one beside them
    (tmp_path / 'deep' / 'er').mkdir(parents=True)
    (tmp_path / 'deep' / 'er' / 'b.txt').write_text('one two\n\nthree')
    (tmp_path / 'deep' / 'a.txt').write_text('one\r\n')
    (tmp_path / 'c.txt').write_text('one\n')
    # When the folder and the file are read
    found = corpus.read([tmp_path / 'deep', tmp_path / 'c.txt'])
    # Then every line is there, without its end, and counted
    assert list(found.every_line()) == ['one', 'one two', '', 'three', 'one']
    assert found.first(5) is found
    assert found.first(2).words == {'one': 2, 'two': 1} and found.first(2).left == 3
    assert found.lines == 5
    assert found.words == Counter(one=3, two=1, three=1)


def test_what_is_no_text_is_left_out_and_counted(tmp_path):
    (tmp_path / 'picture').write_bytes(b'\x89PNG\0\0')
    (tmp_path / 'text').write_text('word')
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'dangling').symlink_to(tmp_path / 'nowhere')
    found = corpus.read([tmp_path])
    assert [text.path.name for text in found.texts] == ['text']
    assert found.skipped == {'not text': 1, 'not a regular file': 2}


def test_a_file_that_cannot_be_read_is_left_out_and_counted(tmp_path, monkeypatch):
    # Given a file that its disk gives up on (root may read anything, so permissions would not do)
    (tmp_path / 'bad').write_text('lost')
    (tmp_path / 'good').write_text('kept')

    def lines(text, whole=corpus.Text.lines):
        yield from whole(text)
        if text.path.name == 'bad':
            raise OSError(5, 'Input/output error')

    monkeypatch.setattr(corpus.Text, 'lines', lines)
    found = corpus.read([tmp_path])
    assert found.skipped == {'Input/output error': 1}
    assert found.words == {'kept': 1}


def test_bytes_that_are_no_utf8_are_replaced(tmp_path):
    (tmp_path / 'latin1').write_bytes(b'caf\xe9 noir\n')
    found = corpus.read([tmp_path])
    assert list(found.every_line()) == ['caf\ufffd noir']
    assert found.words == Counter(caf=1, noir=1)


def test_a_folder_that_leads_into_itself_ends(tmp_path):
    (tmp_path / 'loop').symlink_to(tmp_path)
    (tmp_path / 'text').write_text('once')
    assert corpus.read([tmp_path]).lines == 1


class TestAFileThatChanges:

    @pytest.fixture
    def text(self, tmp_path):
        (tmp_path / 'log').write_text('first\nsecond\n')
        [text] = corpus.read([tmp_path]).texts
        assert not text.changed()
        return text

    def test_what_is_added_later_is_not_read(self, text):
        with text.path.open('a') as file:
            file.write('third\n')
        assert list(text.lines()) == ['first', 'second']
        assert text.changed()

    def test_one_that_has_gone(self, text):
        text.path.unlink()
        assert text.changed()
