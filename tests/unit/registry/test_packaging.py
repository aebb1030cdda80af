"""The registry's image: what its Dockerfile copies is there, and its settings can be read."""

from pathlib import Path

import yaml

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


def test_the_settings_of_a_replica_can_be_read_and_take_secrets_from_the_environment() -> None:
    secrets = {"SCOW_REGISTRY_BUCKET_ACCESS_KEY": "key", "SCOW_REGISTRY_BUCKET_SECRET_KEY": "secret"}
    settings = read_settings(FOLDER / "cluster" / "registry.toml", secrets)
    assert settings.storage.startswith("s3://")
    assert settings.database.url.startswith("postgresql://")
    assert (settings.bucket.access_key, settings.bucket.secret_key) == ("key", "secret")


def test_the_manifests_for_kubernetes_carry_settings_that_can_be_read(tmp_path: Path) -> None:
    documents = {
        each["kind"]: each for each in yaml.safe_load_all((FOLDER / "cluster" / "kubernetes.yaml").read_text())
    }
    (tmp_path / "registry.toml").write_text(documents["ConfigMap"]["data"]["registry.toml"])
    settings = read_settings(tmp_path / "registry.toml", documents["Secret"]["stringData"])
    assert settings.database.url.startswith("postgresql://")
    assert settings.bucket.access_key == "ACCESSKEY"
    container = documents["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": settings.address()[1]}


def test_the_compose_file_names_what_is_beside_it() -> None:
    services = yaml.safe_load((FOLDER / "cluster" / "compose.yaml").read_text())["services"]
    mounted = [volume.split(":")[0] for each in services.values() for volume in each["volumes"] if volume[0] == "."]
    assert mounted
    assert all((FOLDER / "cluster" / name).is_file() for name in mounted)
    servers = (FOLDER / "cluster" / "haproxy.cfg").read_text()
    assert all(f" {name}:5000" in servers for name in services if name.startswith("registry"))
