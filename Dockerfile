# invdiff in a container, on CPUs by default:
#   docker build -t invdiff .
#   docker run --rm -v "$PWD:/data" invdiff solve task=denoise prior=photos measurement=photo.png noise.sigma=auto
# and on NVIDIA GPUs:
#   docker build -t invdiff:cuda --build-arg TORCH=cu128 .
#   docker run --rm --gpus all -v "$PWD:/data" invdiff:cuda solve task=inpaint
FROM python:3.11-slim
ARG TORCH=cpu
RUN pip install --no-cache-dir torch torchvision --index-url "https://download.pytorch.org/whl/${TORCH}"
COPY . /src
RUN pip install --no-cache-dir "/src[medical,tiff,hub]" && rm -rf /src
WORKDIR /data
ENTRYPOINT ["invdiff"]
CMD ["--help"]
