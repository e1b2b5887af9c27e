"""The Jupyter server extension: the process that owns a store and serves it.

deployment.py   wires everything; the one place that knows start and stop; also the embedded engine
control.py      operations beside the sync protocol: deploy, load, snapshots, SQL
identity.py     Jupyter user, kernel secret, admin key or token to a Principal
extension.py    CellstoreApp: traits in, deployments out
routes.py       which URL is served by which handler
handlers.py     HTTP: parse, call, encode; decides nothing
socket.py       frames to session events; effects to frames
serve.py        the extension alone, for scripts and foreign clients
"""
