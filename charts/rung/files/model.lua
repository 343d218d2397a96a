-- The model of a KServe v2 gRPC request is field 1 of its message: it is copied into a header, by which Envoy routes.
local function varint(bytes, at)
  local value, scale = 0, 1
  for _ = 1, 10 do
    local byte = bytes:byte(at)
    if not byte then return nil, at end
    value, at = value + (byte % 128) * scale, at + 1
    if byte < 128 then return value, at end
    scale = scale * 128
  end
  return nil, at
end

local function model(bytes)
  if bytes:byte(1) ~= 0 then return nil end -- compressed
  local at = 6 -- behind the prefix of the message: a flag and its length
  while at <= #bytes do
    local tag, length
    tag, at = varint(bytes, at)
    if not tag then return nil end
    local kind = tag % 8
    if kind == 0 then
      length, at = varint(bytes, at)
      length = length and 0
    elseif kind == 1 then
      length = 8
    elseif kind == 5 then
      length = 4
    elseif kind == 2 then
      length, at = varint(bytes, at)
    end
    if not length then return nil end
    if kind == 2 and math.floor(tag / 8) == 1 then return bytes:sub(at, at + length - 1) end
    at = at + length
  end
  return nil
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path") or ""
  -- A stream has no end to wait for: its client may set the header itself.
  if path:sub(1, 32) ~= "/inference.GRPCInferenceService/" or path:sub(-11) == "StreamInfer" then return end
  handle:headers():remove("x-rung-model")
  local body = handle:body()
  if not body then return end
  local name = model(body:getBytes(0, math.min(body:length(), 8192)))
  if name then
    handle:headers():replace("x-rung-model", name) -- asked for anew: what was there before the wait is not valid
    handle:clearRouteCache()
  end
end
