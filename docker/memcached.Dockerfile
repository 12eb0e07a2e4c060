# memcached 1.6 from Debian's own package, on the same base as the PostgreSQL image.
#
#   docker build -f docker/memcached.Dockerfile -t echocache-memcached:1.6 docker

ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}

RUN apt-get update \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends memcached \
	&& rm -rf /var/lib/apt/lists/*

USER memcache
EXPOSE 11211
CMD ["memcached", "--memory-limit=256", "--max-item-size=1m"]
