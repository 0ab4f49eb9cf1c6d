"Packaging: everything worth saying stands in settings.ini; configs/ and schemas/ travel inside the wheel."
import configparser, shutil
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
cfg = configparser.ConfigParser(delimiters=["="])
cfg.read(HERE/"settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]


def lines(key): return [l.strip() for l in cfg.get(key, "").splitlines() if l.strip()]


class BuildWithResources(build_py):
    "Copy `configs` and `schemas` into the package as `_configs` and `_schemas`, so that a wheel is complete."
    def run(self):
        super().run()
        if self.editable_mode: return
        for name, folder in dict(configs="configs", schemas="schemas", runs="nbs/runs").items():
            if (HERE/folder).is_dir(): shutil.copytree(HERE/folder, Path(self.build_lib)/cfg["lib_name"]/f"_{name}", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))


setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"].split(),
    long_description=(HERE/"README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    author=cfg["author"], author_email=cfg["author_email"], url=cfg["git_url"], license="MIT", license_files=["LICENSE"],
    packages=find_packages(include=[cfg["lib_name"], cfg["lib_name"]+".*"]), python_requires=">="+cfg["min_python"],
    install_requires=lines("requirements"), extras_require={name: lines(f"{name}_requirements") for name in ("dev", "export", "network", "dask", "notebook", "explain", "lab")},
    entry_points={"console_scripts": lines("console_scripts")},
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Science/Research", "Programming Language :: Python :: 3.11",
                 "Topic :: Scientific/Engineering :: Astronomy"],
    cmdclass={"build_py": BuildWithResources}, zip_safe=False)
