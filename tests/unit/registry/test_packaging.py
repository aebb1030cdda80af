"""The registry's image: what its Dockerfile copies is there, and its settings can be read."""

from pathlib import Path

from scow.build import dockerfile
from scow.registry.configuration import read_settings

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "packaging" / "registry"


def test_the_dockerfile_is_one_and_copies_what_is_there() -> None:
    made = dockerfile.parse((FOLDER / "Dockerfile").read_bytes())
    assert len(made.stages) == 2
    copies = [step.text for stage in made.stages for step in stage.instructions if step.keyword == "COPY"]
    sources = [word for text in copies if "--from" not in text for word in text.split()[1:-1]]
    assert sources == ["pyproject.toml", "README.md", "src", "packaging/registry/registry.toml"]
    assert all((ROOT / source).exists() for source in sources)


def test_the_settings_of_the_image_can_be_read_and_changed_by_the_environment() -> None:
    settings = read_settings(FOLDER / "registry.toml", {"SCOW_REGISTRY_READ_ONLY": "true"})
    assert (settings.address(), settings.storage) == (("0.0.0.0", 5000), "/var/lib/registry")
    assert settings.read_only
