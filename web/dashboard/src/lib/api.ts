// The REST reads of the server.

/** An answer that was not 2xx. */
export class ApiError extends Error {
  readonly status: number;

  constructor(status: number, path: string) {
    super(`${path} answered ${status}`);
    this.name = 'ApiError';
    this.status = status;
  }
}

/** Answer of `GET /api/topics/{topic}`. */
export interface TopicAnswer {
  topic?: string;
  offset?: number;
  epoch?: string;
  ts?: number;
  stale_since?: number | null;
  data?: unknown;
  /** The server does not have the topic: nothing was published on it, or not since the server lost its state. */
  unknown?: boolean;
}

async function get<T>(path: string, token: string | undefined, signal: AbortSignal | undefined): Promise<T> {
  const headers: Record<string, string> = { Accept: 'application/json' };
  if (token !== undefined) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { headers, ...(signal !== undefined && { signal }) });
  if (!answer.ok) throw new ApiError(answer.status, path);
  return (await answer.json()) as T;
}

/** All topics that begin with `prefix`. */
export async function listTopics(
  prefix: string,
  token: string | undefined,
  signal?: AbortSignal,
): Promise<string[]> {
  const topics: string[] = [];
  let after: string | null = null;
  do {
    const query = new URLSearchParams({ prefix, limit: '1000', ...(after !== null && { after }) });
    const page: { topics?: string[]; next?: string | null } = await get(
      `/api/topics?${query}`,
      token,
      signal,
    );
    topics.push(...(page.topics ?? []));
    after = page.next ?? null;
  } while (after !== null);
  return topics;
}

/** State, or kept events, of one topic. */
export async function readTopic(
  topic: string,
  token: string | undefined,
  signal?: AbortSignal,
): Promise<TopicAnswer> {
  try {
    return await get<TopicAnswer>(`/api/topics/${encodeURIComponent(topic)}`, token, signal);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return { unknown: true };
    throw error;
  }
}
