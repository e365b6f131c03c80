# docker build -f docker/tensorrt.Dockerfile -t san-deploy:tensorrt .
# docker run --rm --gpus all -v "$PWD":/data san-deploy:tensorrt export model-fp16.onnx
# A plan runs with the TensorRT that built it: choose the image of the devices' version, --build-arg IMAGE=...
ARG IMAGE=nvcr.io/nvidia/tensorrt:25.06-py3
FROM ${IMAGE}
WORKDIR /src
COPY . .
# The image's TensorRT is seen through --system-site-packages; ONNX Runtime checks on the CPU what is exported.
RUN python3 -m venv --system-site-packages /opt/san && /opt/san/bin/python -m pip install --no-cache-dir '.[cpu,convert]'
USER 1000:1000
# For `sh -c "san ..."`, as orchestrators start it.
ENV PATH=/opt/san/bin:$PATH
WORKDIR /data
ENTRYPOINT ["/opt/san/bin/san"]
CMD ["--help"]
