package prestop.test;

import com.google.protobuf.StringValue;

/** What the providers are asked: over Triple, messages of protobuf are gRPC's. */
public interface Echo {
    StringValue echo(StringValue text);
}
