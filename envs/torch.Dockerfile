# Image for the stages after the stores (containers.torch). Third-party packages only, at the versions of torch.yaml:
# our own code comes from the checkout, which is bound into the container.
#   docker build --file envs/torch.Dockerfile --tag more-from-less-torch envs
#   apptainer build torch.sif docker-daemon://more-from-less-torch:latest
FROM python:3.11-slim-bookworm
COPY torch.yaml /opt/environment.yaml
RUN sed -n 's/^ *- \([A-Za-z0-9_.-]*==.*\)/\1/p' /opt/environment.yaml > /opt/requirements.txt \
    && pip install --no-cache-dir --no-compile --requirement /opt/requirements.txt
# The wheels of PyTorch bring CUDA along; `--apptainer-args "--nv"` lends the container the driver of the host.
# Whoever runs the container may be any user without a home: caches go where everyone can write.
ENV MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache PYTHONDONTWRITEBYTECODE=1
