"""The Jupyter server extension: the process that owns a store and serves it.

deployment.py   wires everything; the one place that knows start and stop; also the embedded engine
control.py      operations beside the sync protocol: deploy, load, snapshots, SQL
identity.py     Jupyter user, kernel secret, admin key or token to a Principal
extension.py    CellstoreApp: traits in, deployments out
routes.py       which URL is served by which handler
handlers.py     HTTP: parse, call, encode; decides nothing
socket.py       frames to session events; effects to frames
framing.py      what a frame looks like on the wire, and who carries it once a socket is open
jwt.py          tokens of configured issuers
actions.py      requests to HTTP actions
files.py        files of `ctx.storage` over HTTP
changes.py      the store as a stream; imports.py, uploads.py  documents and files that come back
admin.py        what Convex's command line and connectors ask; system.py  the queries under `_system/`
serve.py        the extension alone, for scripts and foreign clients; launch.py  a server as a child process
"""
