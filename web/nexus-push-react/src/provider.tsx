import { createContext, type ReactElement, type ReactNode, useEffect, useRef, useState } from 'react';
import { PushClient, type PushClientOptions } from './client.js';

/** The client of the nearest provider. */
export const PushContext = createContext<PushClient | undefined>(undefined);

/** So long after it was unmounted a provider closes its connection: StrictMode mounts it again at once. */
const CLOSE_AFTER_MS = 200;

/**
 * Props of {@link PushProvider}. `url`, `options`, `hiddenAfterMs` and `client` are read when it is mounted;
 * to change them give it another `key`. A new `token` is used from the next connect on.
 */
export interface PushProviderProps extends Omit<PushClientOptions, 'releaseAfterMs'> {
  /** A client of your own, instead of the other props. It is connected, but not closed, by the provider. */
  client?: PushClient | undefined;
  children?: ReactNode;
}

/** Connects to the server and gives the connection to the hooks below it. */
export function PushProvider(props: PushProviderProps): ReactElement {
  const { client: given, token, getToken, children } = props;
  const getTokenRef = useRef(getToken);
  const [client] = useState(() => {
    if (given !== undefined) return given;
    // Through the ref: a function that closes over state of the application stays up to date.
    const latest = (): Promise<string> => getTokenRef.current?.() ?? Promise.resolve('');
    return new PushClient({ ...props, getToken: getToken && latest });
  });
  const owned = given === undefined;

  useEffect(() => {
    getTokenRef.current = getToken;
  }, [getToken]);

  const tokenRef = useRef(token);
  useEffect(() => {
    if (!owned || tokenRef.current === token) return;
    tokenRef.current = token;
    client.centrifuge.setToken(token ?? '');
  }, [client, owned, token]);

  useEffect(() => {
    client.connect();
    return () => {
      if (owned) client.close(CLOSE_AFTER_MS);
    };
  }, [client, owned]);

  return <PushContext value={client}>{children}</PushContext>;
}
