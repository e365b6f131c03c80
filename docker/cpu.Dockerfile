# docker build -f docker/cpu.Dockerfile -t san-deploy .
# docker run --rm -v "$PWD":/data san-deploy match cam1 cam2 -o matches
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/san && /opt/san/bin/python -m pip install --no-cache-dir --no-compile '.[cpu]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/san /opt/san
# No root rights: what it writes belongs to the user of --user, else to 1000.
USER 1000:1000
# For `sh -c "san ..."`, as orchestrators start it.
ENV PATH=/opt/san/bin:$PATH
WORKDIR /data
ENTRYPOINT ["/opt/san/bin/san"]
CMD ["--help"]
