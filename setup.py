"""What pyproject.toml cannot say: the wheel carries notebooks/ and data_manifests/ in the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ASSETS = ("notebooks", "data_manifests")


class BuildWithAssets(build_py):
    """Copies the folders beside the package into clipnotes/_assets; an editable install needs no copy."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in ASSETS:
            target = Path(self.build_lib, "clipnotes", "_assets", folder)
            shutil.rmtree(target, ignore_errors=True)  # an old build folder must not bring back deleted files
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".*"))


setup(cmdclass={"build_py": BuildWithAssets})
