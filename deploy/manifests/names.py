"""What Kubernetes and KubeRay take as a name. Sources: Kubernetes' "Object Names and IDs", KubeRay's own checks."""

import re

from orchestrator.errors import SettingError

LONGEST_LABEL = 63
LONGEST_OBJECT = 253
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_STARTS_WITH_A_LETTER = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NODES = re.compile(r"[a-z]([-a-z0-9_]{0,40}[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PATH = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::\d{{1,5}})?/)?{_PATH}(?:/{_PATH})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_QUANTITY = re.compile(r"[1-9]\d*(?:\.\d+)?(?:Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?")


def slug(text: str, *, longest: int = LONGEST_LABEL) -> str:
    """The nearest name that begins with a letter; `x` where nothing of the text can stay."""
    kept = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not kept[:1].isalpha():
        kept = f"x-{kept}".strip("-")
    return kept[:longest].rstrip("-")


def check_ray_name(setting: str, name: str, longest: int) -> None:
    """Of a Ray resource: KubeRay makes names of services and pods from it. Raises: SettingError."""
    if len(name) > longest:
        reason = f"{name} has {len(name)} characters, and KubeRay takes {longest} here"
        raise SettingError(setting, reason, f"write --name {slug(name, longest=longest)}")
    if not _STARTS_WITH_A_LETTER.fullmatch(name):
        reason = f"{name!r} is no name for Kubernetes: small letters, digits and -, a letter first"
        raise SettingError(setting, reason, f"write --name {slug(name, longest=longest)}")


def check_label(setting: str, name: str) -> None:
    """Of a namespace. Raises: SettingError."""
    if len(name) > LONGEST_LABEL or not _LABEL.fullmatch(name):
        reason = f"{name!r} is no name for Kubernetes: at most {LONGEST_LABEL} small letters, digits and -"
        raise SettingError(setting, reason, f"write {slug(name)}")


def check_nodes(setting: str, nodes: str) -> None:
    """Of a custom resource: KubeRay puts it into a shell's command, and takes some names for another's. Raises:
    SettingError."""
    if not _NODES.fullmatch(nodes) or nodes.endswith("gpu") or nodes in ("cpu", "memory", "tpu"):
        reason = f"{nodes!r} is no resource that KubeRay offers as it is"
        raise SettingError(setting, reason, "use small letters, digits, - and _, and no word for processors or memory")


def check_object(setting: str, name: str) -> None:
    """Of a Secret, a claim, a class or an account. Raises: SettingError."""
    if len(name) > LONGEST_OBJECT or not _OBJECT.fullmatch(name):
        reason = f"{name!r} is no name for Kubernetes: small letters, digits, - and ."
        raise SettingError(setting, reason, "give the name of an object in the cluster")


def check_image(setting: str, image: str) -> None:
    """Raises: SettingError."""
    if not _IMAGE.fullmatch(image):
        raise SettingError(setting, f"{image!r} is no image", "write it as REGISTRY/NAME:TAG")


def check_quantity(setting: str, quantity: str) -> None:
    """Raises: SettingError."""
    if not _QUANTITY.fullmatch(quantity):
        raise SettingError(setting, f"{quantity!r} is no amount for Kubernetes", "write it as 100Gi")


def labels(setting: str, given: tuple[str, ...]) -> dict[str, str]:
    """From `key=value` each. Raises: SettingError: one has another form."""
    made: dict[str, str] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        fits = _LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value) and len(value) <= LONGEST_LABEL
        if not equals or not fits:
            raise SettingError(setting, f"{pair!r} is no label of a node", "write it as key=value")
        made[key] = value
    return made
