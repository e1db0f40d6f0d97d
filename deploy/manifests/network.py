"""Who may speak to whom: pods of one cluster among themselves, the operator to the head, and few of them to the world.

Policies add up: what none of them allows is refused, for all pods that one of them chooses.
"""

from collections.abc import Sequence

from deploy.manifests.containers import (
    DASHBOARD_PORT,
    INSTANCE,
    METRICS_PORT,
    PACELINE,
    ROLE,
    SERVE_PORT,
    Site,
    metadata,
)
from deploy.manifests.tree import Tree

METADATA_SERVICE = "169.254.169.254/32"
"""Where clouds hand out their machines' credentials."""
DNS_PORT = 53
OUTSIDE_PORTS = (80, 443, 6443)
"""Hub, tracker and object storage; the API server, which the autoscaler asks."""
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
SPACE_NAME = "kubernetes.io/metadata.name"


def policies(site: Site) -> list[Tree]:
    """Of the pods of one rendering."""
    mine: Tree = {"matchLabels": {INSTANCE: site.name}}
    storage = site.options.storage_port
    made = [
        _policy(site, "inside", mine, ingress=[{"from": [{"podSelector": mine}]}], egress=[_to(mine), _names()]),
        _policy(site, "head", _with_role(site, "In", "head"), ingress=_from_operator(site, DASHBOARD_PORT, SERVE_PORT)),
        _policy(
            site,
            "outside",
            _with_role(site, "NotIn", "reward"),
            egress=[_world(OUTSIDE_PORTS), *([] if storage is None else [_anywhere((storage,))])],
        ),
    ]
    if site.needs.endpoint_ports:
        asking = _with_role(site, "In", "reward")
        made.append(_policy(site, "endpoints", asking, egress=[_anywhere(site.needs.endpoint_ports)]))
    if site.options.metrics_namespace is not None:
        watching = {
            "from": [{"namespaceSelector": _space(site.options.metrics_namespace)}],
            "ports": _tcp(METRICS_PORT),
        }
        made.append(_policy(site, "metrics", mine, ingress=[watching]))
    return made


def judge_policy(site: Site) -> Tree:
    """Runs in any namespace may ask the judge."""
    asking: Tree = {"namespaceSelector": {}, "podSelector": {"matchLabels": PACELINE}}
    serving: Tree = {"from": [asking], "ports": _tcp(SERVE_PORT)}
    return _policy(site, "serving", {"matchLabels": {INSTANCE: site.name}}, ingress=[serving])


def _policy(site: Site, what: str, chosen: Tree, *, ingress: Sequence[Tree] = (), egress: Sequence[Tree] = ()) -> Tree:
    kinds = [*(["Ingress"] if ingress else []), *(["Egress"] if egress else [])]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(site, f"{site.name}-{what}"),
        "spec": {
            "podSelector": chosen,
            "policyTypes": kinds,
            **({"ingress": list(ingress)} if ingress else {}),
            **({"egress": list(egress)} if egress else {}),
        },
    }


def _with_role(site: Site, operator: str, role: str) -> Tree:
    return {
        "matchLabels": {INSTANCE: site.name},
        "matchExpressions": [{"key": ROLE, "operator": operator, "values": [role]}],
    }


def _from_operator(site: Site, *ports: int) -> list[Tree]:
    space = site.options.operator_namespace
    chosen = {} if space is None else _space(space)
    return [{"from": [{"namespaceSelector": chosen, "podSelector": {"matchLabels": OPERATOR}}], "ports": _tcp(*ports)}]


def _space(name: str) -> Tree:
    return {"matchLabels": {SPACE_NAME: name}}


def _to(chosen: Tree) -> Tree:
    return {"to": [{"podSelector": chosen}]}


def _names() -> Tree:
    ports = [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")]
    return {"to": [{"namespaceSelector": _space("kube-system")}], "ports": ports}


def _world(ports: Sequence[int]) -> Tree:
    return {"to": _blocks(), "ports": _tcp(*ports)}


def _anywhere(ports: Sequence[int]) -> Tree:
    """Outside and inside the cluster: to some networks, a pod's address is in no block."""
    return {"to": [*_blocks(), {"namespaceSelector": {}}], "ports": _tcp(*ports)}


def _blocks() -> list[Tree]:
    return [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [METADATA_SERVICE]}}, {"ipBlock": {"cidr": "::/0"}}]


def _tcp(*ports: int) -> list[Tree]:
    return [{"protocol": "TCP", "port": port} for port in ports]
