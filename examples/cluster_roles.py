"""In which role a script runs: by itself and in the primary is_primary, forked is_worker."""

from fastcluster import cluster

role = "primary" if cluster.is_primary else "worker"
print(f"{role}: is_primary={cluster.is_primary} is_worker={cluster.is_worker}", flush=True)

if cluster.is_primary:
    cluster.fork()

cluster.run()
