# Image for register.engine: valis (containers.valis). Third-party packages only, at the versions of valis.yaml:
# our own code comes from the checkout, which is bound into the container.
#   docker build --file envs/valis.Dockerfile --tag more-from-less-valis envs
#   apptainer build valis.sif docker-daemon://more-from-less-valis:latest
FROM python:3.11-slim-bookworm
COPY valis.yaml /opt/environment.yaml
RUN sed -n 's/^ *- \([A-Za-z0-9_.-]*==.*\)/\1/p' /opt/environment.yaml > /opt/requirements.txt \
    && pip install --no-cache-dir --no-compile --requirement /opt/requirements.txt
# Whoever runs the container may be any user without a home: caches go where everyone can write.
ENV MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache PYTHONDONTWRITEBYTECODE=1
