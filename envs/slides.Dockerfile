# Image for the stages that read slides (containers.slides). Third-party packages only, at the versions of slides.yaml:
# our own code comes from the checkout, which is bound into the container.
#   docker build --file envs/slides.Dockerfile --tag more-from-less-slides envs
#   apptainer build slides.sif docker-daemon://more-from-less-slides:latest
FROM python:3.11-slim-bookworm
COPY slides.yaml /opt/environment.yaml
RUN sed -n 's/^ *- \([A-Za-z0-9_.-]*==.*\)/\1/p' /opt/environment.yaml > /opt/requirements.txt \
    && pip install --no-cache-dir --no-compile --requirement /opt/requirements.txt
# Whoever runs the container may be any user without a home: caches go where everyone can write.
ENV MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache PYTHONDONTWRITEBYTECODE=1
