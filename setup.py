"""What setup.cfg cannot say: two files that must stand in site-packages itself, beside the package.

Python reads ``*.pth`` and ``*.start`` there only. In a wheel they stand at its root; an editable install has
no root of its own, so they go where setuptools collects its own .pth.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STARTUP = ('greenmq-as-kombu.pth', 'greenmq-as-kombu.start')


class BuildWithStartup(build_py):

    def run(self):
        super().run()
        folder = self.build_lib
        if self.editable_mode:
            folder = self.get_finalized_command('install').install_lib
        for name in STARTUP:
            self.copy_file(name, str(Path(folder, name)), preserve_mode=False)

    def get_outputs(self, include_bytecode=True):
        startup = [str(Path(self.build_lib, name)) for name in STARTUP]
        return [*super().get_outputs(include_bytecode), *startup]


setup(cmdclass={'build_py': BuildWithStartup})
