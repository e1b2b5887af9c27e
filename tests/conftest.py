"""What all tests share. `pytest_jupyter` brings a real Jupyter server in this process (fixtures `jp_…`)."""

pytest_plugins = ["pytest_jupyter.jupyter_server"]
