"""The models that Ollama has."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.answers import ModelInfo, ModelList
from mochi_server.api.http import json_response, state
from mochi_server.errors import ModelNotFound, ModelPathNotFound
from mochi_server.ollama.catalog import Model


async def list_models(request: Request) -> Response:
    """The models that can chat, newest first."""
    models = await state(request)["catalog"].models()
    return json_response(ModelList([_info(model) for model in models]))


async def read_model(request: Request) -> Response:
    """One model, by its name."""
    try:
        model = await state(request)["catalog"].find(request.path_params["name"])
    except ModelNotFound as error:
        raise ModelPathNotFound(error.message, error.details) from None
    return json_response(_info(model))


def _info(model: Model) -> ModelInfo:
    known = msgspec.structs.replace(model, capabilities=model.capabilities or ())
    return msgspec.convert(known, ModelInfo, from_attributes=True)
