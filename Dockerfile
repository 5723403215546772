# docker build -t bingo_pl . && docker run --rm -v "$PWD:/data" bingo_pl register t1.nii.gz t2.nii.gz -o out
# For a GPU leave out PIP_EXTRA_INDEX_URL and run with --gpus all.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt /source && rm -r /source
WORKDIR /data
ENTRYPOINT ["bingo"]
