# docker build -t segtrain-cli .
# docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" segtrain-cli fit --data /work/data
#
# Without a GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t segtrain-cli .
FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://pypi.org/simple
RUN python -m venv /opt/segtrain
ENV PATH=/opt/segtrain/bin:$PATH
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
COPY pyproject.toml README.md LICENSE /source/
COPY segtrain /source/segtrain
RUN pip install --no-cache-dir "/source[weights,export]"

FROM python:3.11-slim
COPY --from=build /opt/segtrain /opt/segtrain
# any user may run it, with a home folder or without
ENV PATH=/opt/segtrain/bin:$PATH SEGTRAIN_CACHE=/tmp/segtrain HF_HOME=/tmp/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TRITON_CACHE_DIR=/tmp/triton
USER 1000
WORKDIR /work
ENTRYPOINT ["segtrain"]
