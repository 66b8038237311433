"""Where things are on this machine."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def default_data_dir() -> Path:
    """The user's state directory: ~/.local/state/zerogate on Linux ($XDG_STATE_HOME), its like elsewhere."""
    return Path(platformdirs.user_state_dir("zerogate", appauthor=False))


def kubeconfig_path(data_dir: Path) -> Path:
    """Where `zerogate up` writes the kubeconfig of its API server."""
    return data_dir / "kubeconfig"


def admin_port_path(data_dir: Path) -> Path:
    """Where `zerogate up` writes the port on which its controller tells how it is."""
    return data_dir / "admin-port"


def deploy_dir() -> Path:
    """The CRDs and default ConfigMaps, as installed beside this module; in a checkout these are links to deploy/."""
    return Path(__file__).parent / "deploy"
