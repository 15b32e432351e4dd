"""Fork and messages: a parent that asks, a child that answers and then disconnects."""

from fastcluster import cluster

if cluster.is_primary:
    child = cluster.fork()
    child.send({"hello": "child"})
    child.on("message", lambda message, handle: print("parent got", message, flush=True))
    child.on("disconnect", lambda: print("child disconnected", flush=True))
else:

    @cluster.worker.once("message")
    def asked(message, handle):
        print("child got", message, flush=True)
        cluster.worker.send({"hello": "parent"})
        cluster.worker.disconnect()


cluster.run()
