"""Packaging: everything is read from settings.ini, so that there is one place to change."""
import configparser
import shlex
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib = cfg["lib_name"]
readme = here / "README.md"

setup(
    name=lib,
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    keywords=cfg["keywords"],
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={lib: ["weights/*", "weights/trained/*/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={extra: shlex.split(cfg[f"{extra}_requirements"]) for extra in ("dev", "play", "scale")},
    entry_points={
        "nbdev": [f"{lib}={lib}._modidx:d"],
        "papermill.engine": [f"{lib}={lib}.launch:Engine"],
    },
    zip_safe=False,
)
